// An upstream process is killed under load. Its tunnels and responses are closed correctly, others are not affected, and the proxy
// has no more open files than before.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { UPGRADE, connect, freePort, openFiles, proxy, roundTrip, site, until } from './harness.js';
import { spawnPeer } from './peer.js';

const TUNNELS = 200;
const REQUESTS = 200;
const PARTS = 20; // responses of which half has been received
const OTHERS = 20; // tunnels of the other upstream

const get = (url, headers) => new Promise((resolve, reject) => {
  http.get(url, { agent: false, headers }, resolve).on('error', reject);
});

// Returns whether a response was complete, once its connection is closed.
const wasWhole = (response) => new Promise((resolve) => {
  response.on('error', () => {}).on('close', () => resolve(response.complete)).resume();
});

// Echoes messages until the tunnel closes. Returns the number of round trips and the close code.
async function keepBusy(socket) {
  let rounds = 0;
  socket.on('message', () => { rounds++; socket.send('again'); });
  socket.send('start');
  const [code] = await once(socket, 'close');
  return { rounds, code };
}

// Returns the number of open files, once it is stable.
async function settled(pid) {
  let last = -1;
  let same = 0;
  return until('the number of open files settles', 10_000, async () => {
    const now = await openFiles(pid);
    same = now === last ? same + 1 : 0;
    last = now;
    return same > 10 ? now : 0;
  });
}

test('an upstream is killed under 200 tunnels and 200 requests', async (t) => {
  const [dying, living] = [await spawnPeer(t), await spawnPeer(t)];
  const port = await freePort();
  const { pid, url, ws } = await proxy(t, port, site(port, `
        proxy_buffering off;
        location /dying/ { proxy_pass http://127.0.0.1:${dying.port};${UPGRADE} }
        location /living/ { proxy_pass http://127.0.0.1:${living.port};${UPGRADE} }`));
  const before = await settled(pid);

  const open = (path, count) => Promise.all(Array.from({ length: count }, () => connect(t, ws + path)));
  const busy = (await open('/dying/', TUNNELS)).map(keepBusy);
  const others = await open('/living/', OTHERS);
  const othersBusy = others.map(keepBusy);
  const hanging = Array.from({ length: REQUESTS }, () => get(`${url}/dying/hang`));
  const parts = await Promise.all(Array.from({ length: PARTS },
    (_, i) => get(`${url}/dying/part`, i % 2 ? { 'X-Chunked': 'yes' } : {})));
  const cut = parts.map(wasWhole);
  // One file for each client and one for each connection to an upstream: then all requests have reached it.
  const expected = before + 2 * (TUNNELS + REQUESTS + PARTS + OTHERS);
  await until('all requests are with their upstream', 10_000, async () => await openFiles(pid) >= expected);

  dying.child.kill('SIGKILL');

  for (const { rounds, code } of await Promise.all(busy)) {
    assert.equal(code, 1006);
    assert.ok(rounds > 0);
  }
  for (const response of await Promise.all(hanging)) {
    assert.equal(response.statusCode, 502);
    assert.ok(await wasWhole(response));
  }
  assert.deepEqual(new Set(await Promise.all(cut)), new Set([false]), 'half an answer must not look like a whole one');
  const refused = await get(`${url}/dying/`);
  assert.equal(refused.statusCode, 502);
  await wasWhole(refused);

  assert.ok(others.every((socket) => socket.readyState === socket.OPEN), 'the tunnels of the other upstream');
  for (const socket of others) {
    socket.removeAllListeners('message');
    socket.ping();
    await once(socket, 'pong');
    socket.close();
  }
  await Promise.all(othersBusy);
  let now;
  await until('all files are closed', 10_000, async () => (now = await openFiles(pid)) <= before).catch((error) => {
    assert.fail(`${error.message}: ${before} before, ${now} now`);
  });
  const socket = await connect(t, `${ws}/living/`);
  assert.equal(await roundTrip(socket, 'still here'), 'still here');
});
