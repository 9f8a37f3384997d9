// Large bodies: 100 MB each way arrive complete, and the proxy's memory does not grow. Unread bytes of a slow receiver wait in the
// sender, not in the proxy.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { UPGRADE, connect, forgetPeak, freePort, memory, proxy, site, until } from './harness.js';
import { hashOf, pieces, serve } from './peer.js';

const BYTES = 100 << 20;
const GROWTH_KB_MAX = 8 << 10;
const KERNEL_BYTES_MAX = 32 << 20; // the socket buffers of both connections

const SHA256 = (() => {
  const hash = createHash('sha256');
  for (const piece of pieces(BYTES)) hash.update(piece);
  return hash.digest('hex');
})();

async function throughProxy(t) {
  const peer = await serve(t, 0, { perMessageDeflate: false });
  const port = await freePort();
  const smolgate = await proxy(t, port, site(port, `
        client_max_body_size 0;
        location / { proxy_pass http://127.0.0.1:${peer.port}; proxy_buffering off;${UPGRADE} }`));
  return { peer, ...smolgate };
}

// Runs `work` and returns the maximum growth of the proxy's memory meanwhile, in kB.
async function growth(smolgate, work) {
  await (await fetch(`${smolgate.url}/bytes/100000`)).arrayBuffer(); // one-time allocations
  await forgetPeak(smolgate.pid);
  const before = await memory(smolgate.pid);
  await work();
  const after = await memory(smolgate.pid);
  return { kB: after.peak - before.rss, text: `${before.rss} kB before, ${after.peak} kB peak, ${after.rss} kB after` };
}

async function growsLittle(t, smolgate, work) {
  const { kB, text } = await growth(smolgate, work);
  t.diagnostic(text);
  assert.ok(kB < GROWTH_KB_MAX, text);
}

for (const [framing, headers] of [['chunked', {}], ['with a Content-Length', { 'Content-Length': BYTES }]]) {
  test(`an upload of 100 MB, ${framing}`, async (t) => {
    const smolgate = await throughProxy(t);
    await growsLittle(t, smolgate, async () => {
      const request = http.request(smolgate.url, { method: 'PUT', headers });
      const answer = once(request, 'response');
      await pipeline(Readable.from(pieces(BYTES)), request);
      const [response] = await answer;
      assert.equal(response.statusCode, 200);
      assert.deepEqual(JSON.parse(await text(response)).body, { bytes: BYTES, sha256: SHA256 });
    });
  });
}

const text = async (stream) => {
  let all = '';
  for await (const piece of stream) all += piece;
  return all;
};

test('a download of 100 MB', async (t) => {
  const smolgate = await throughProxy(t);
  await growsLittle(t, smolgate, async () => {
    const [response] = await once(http.get(`${smolgate.url}/bytes/${BYTES}`), 'response');
    assert.equal(response.headers['content-length'], String(BYTES));
    assert.deepEqual(await hashOf(response), { bytes: BYTES, sha256: SHA256 });
  });
});

// Waits until the sender has been blocked for a while, and returns how much it had sent.
async function stalled(bytes) {
  let last = -1;
  let since = Date.now();
  return until('the sender has to wait', 20_000, () => {
    if (bytes() !== last) {
      last = bytes();
      since = Date.now();
    }
    return last > 0 && Date.now() - since > 500 ? last : 0;
  });
}

test('a download that is not read blocks the upstream', async (t) => {
  const smolgate = await throughProxy(t);
  await growsLittle(t, smolgate, async () => {
    const sender = once(smolgate.peer.server, 'request');
    const [response] = await once(http.get(`${smolgate.url}/bytes/${BYTES}`, { agent: new http.Agent() }), 'response');
    const { socket } = (await sender)[0];
    const sent = await stalled(() => socket.bytesWritten - socket.writableLength);
    assert.ok(sent < KERNEL_BYTES_MAX, `${sent} bytes left the upstream`);
    assert.deepEqual(await hashOf(response), { bytes: BYTES, sha256: SHA256 });
  });
});

test('a tunnel that the client does not read blocks the upstream', async (t) => {
  const smolgate = await throughProxy(t);
  await growsLittle(t, smolgate, async () => {
    const accepted = once(smolgate.peer.sockets, 'connection');
    const client = await connect(t, smolgate.ws);
    client.pause();
    const [sender] = await accepted;
    for (const piece of pieces(BYTES)) sender.send(piece);
    const sent = await stalled(() => sender._socket.bytesWritten - sender.bufferedAmount);
    assert.ok(sent < KERNEL_BYTES_MAX, `${sent} bytes left the upstream`);
    const hash = createHash('sha256');
    let bytes = 0;
    client.on('message', (data) => { hash.update(data); bytes += data.length; });
    client.resume();
    await until('all of it arrives', 20_000, () => bytes === BYTES);
    assert.equal(hash.digest('hex'), SHA256);
  });
});
