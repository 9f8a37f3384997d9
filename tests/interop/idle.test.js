// An idle tunnel stays open for ever, unless the configuration has a timeout. The wait is three seconds; INTEROP_LONG=1 makes it
// five minutes, longer than the default timeouts of other proxies.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as pass } from 'node:timers/promises';
import { UPGRADE, connect, freePort, proxy, roundTrip, site } from './harness.js';
import { serve } from './peer.js';

const IDLE_MS = process.env.INTEROP_LONG ? 300_000 : 3_000;

async function tunnel(t, directives) {
  const peer = await serve(t);
  const port = await freePort();
  const { ws } = await proxy(t, port,
    site(port, `location / { proxy_pass http://127.0.0.1:${peer.port};${UPGRADE} ${directives} }`));
  const socket = await connect(t, ws);
  assert.equal(await roundTrip(socket, 'before'), 'before');
  return socket;
}

test(`a tunnel without a timeout is alive after ${IDLE_MS / 1000} s of silence`, { timeout: IDLE_MS + 30_000 }, async (t) => {
  const socket = await tunnel(t, '');
  await pass(IDLE_MS);
  assert.equal(await roundTrip(socket, 'after'), 'after');
});

test('proxy_read_timeout 2s closes a silent tunnel', async (t) => {
  const socket = await tunnel(t, 'proxy_read_timeout 2s;');
  const start = performance.now();
  const [code] = await once(socket, 'close');
  const ms = performance.now() - start;
  assert.equal(code, 1006);
  assert.ok(ms > 1500 && ms < 4000, `closed after ${ms} ms`);
});

test('proxy_read_timeout 2s does not close a tunnel with a message every half second', async (t) => {
  const socket = await tunnel(t, 'proxy_read_timeout 2s;');
  for (let i = 0; i < 8; i++) {
    await pass(500);
    assert.equal(await roundTrip(socket, `${i}`), `${i}`);
  }
});
