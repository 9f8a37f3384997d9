// WebSocket through a tunnel: large messages, compression, control frames, all ways of closing, and bytes before or with the 101.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import { UPGRADE, connect, freePort, proxy, roundTrip, site, until } from './harness.js';
import { serve, sha256 } from './peer.js';

async function throughProxy(t, options) {
  const peer = await serve(t, 0, options);
  const port = await freePort();
  const smolgate = await proxy(t, port, site(port, `location / { proxy_pass http://127.0.0.1:${peer.port};${UPGRADE} }`));
  return { peer, ...smolgate };
}

// Returns the next WebSocket of the peer, after `open` has connected it.
async function bothEnds(t, peer, ws, ...options) {
  const accepted = once(peer.sockets, 'connection');
  const socket = await connect(t, ws, ...options);
  return [socket, (await accepted)[0]];
}

// An upgrade request in raw bytes, and the bytes of frames as a client sends them (masked with zeros: unchanged).
const KEY = 'dGhlIHNhbXBsZSBub25jZQ==';
const request = (port) => `GET / HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n`
  + `Sec-WebSocket-Key: ${KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n`;
const accept = (key) => createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
const textFrame = (text) => Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), Buffer.from(text)]);

test('10 MB in one message, each way', async (t) => {
  const { peer, ws } = await throughProxy(t);
  const [socket, accepted] = await bothEnds(t, peer, ws);
  const message = randomBytes(10 << 20);
  const arrived = once(accepted, 'message');
  const answer = await roundTrip(socket, message);
  assert.equal(sha256((await arrived)[0]), sha256(message), 'client to upstream');
  assert.equal(sha256(answer), sha256(message), 'upstream to client');
});

test('permessage-deflate is negotiated end to end', async (t) => {
  const { peer, ws } = await throughProxy(t);
  const [socket, accepted] = await bothEnds(t, peer, ws, [], { perMessageDeflate: { threshold: 0 } });
  assert.match(socket.extensions, /permessage-deflate/);
  assert.match(accepted.extensions, /permessage-deflate/);
  const message = 'much the same '.repeat(10_000);
  assert.equal(await roundTrip(socket, message), message);
});

test('ping and pong, from either side', async (t) => {
  const { peer, ws } = await throughProxy(t);
  const [socket, accepted] = await bothEnds(t, peer, ws);
  for (const [from, payload] of [[socket, 'from the client'], [accepted, 'from the upstream']]) {
    const pong = once(from, 'pong');
    from.ping(payload);
    assert.equal((await pong)[0].toString(), payload);
  }
});

test('close codes, from either side', async (t) => {
  const { peer, ws } = await throughProxy(t);
  for (const closer of [0, 1]) {
    const ends = await bothEnds(t, peer, ws);
    const closed = ends.map((end) => once(end, 'close'));
    ends[closer].close(4001 + closer, 'enough');
    for (const [code, reason] of await Promise.all(closed)) {
      assert.equal(code, 4001 + closer);
      assert.equal(reason.toString(), 'enough');
    }
  }
});

test('a subprotocol is chosen by the upstream', async (t) => {
  const { peer, ws } = await throughProxy(t, { handleProtocols: (offered) => [...offered].at(-1) });
  const [socket, accepted] = await bothEnds(t, peer, ws, ['chat.v1', 'chat.v2']);
  assert.equal(socket.protocol, 'chat.v2');
  assert.equal(accepted.protocol, 'chat.v2');
});

test('200 clients at once', async (t) => {
  const { ws } = await throughProxy(t);
  await Promise.all(Array.from({ length: 200 }, async (_, client) => {
    const socket = await connect(t, ws);
    for (let i = 0; i < 20; i++) {
      const message = `${client}/${i} ${'.'.repeat(client)}`;
      assert.equal(await roundTrip(socket, message), message);
    }
  }));
});

test('the server sends first, in the segment of its 101', async (t) => {
  const raw = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (head) => {
      const key = head.toString().match(/Sec-WebSocket-Key: (.*)\r\n/i)[1];
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
        + `Sec-WebSocket-Accept: ${accept(key)}\r\n\r\n\x81\x05first`, 'latin1');
    });
  }).listen(0, '127.0.0.1');
  await once(raw, 'listening');
  t.after(() => raw.close());
  const port = await freePort();
  const { ws } = await proxy(t, port,
    site(port, `location / { proxy_pass http://127.0.0.1:${raw.address().port};${UPGRADE} }`));
  const socket = await connect(t, ws);
  assert.equal((await socket.first)[0].toString(), 'first');
});

test('the client sends first, in the segment of its request', async (t) => {
  const { port } = await throughProxy(t);
  const socket = net.connect(port, '127.0.0.1');
  t.after(() => socket.destroy());
  let got = '';
  socket.on('data', (data) => { got += data.toString('latin1'); });
  socket.write(Buffer.concat([Buffer.from(request(port)), textFrame('early')]));
  await until('the echo of the early frame', 5000, () => got.endsWith('\x81\x05early'));
  assert.ok(got.startsWith('HTTP/1.1 101 '));
  assert.ok(got.includes(accept(KEY)));
});

for (const [how, leave] of [['FIN', (socket) => socket.end()], ['RST', (socket) => socket.resetAndDestroy()]]) {
  test(`the client disconnects in the middle of a message, by ${how}`, async (t) => {
    const { peer, port } = await throughProxy(t);
    const accepted = once(peer.sockets, 'connection');
    const socket = net.connect(port, '127.0.0.1');
    t.after(() => socket.destroy());
    socket.on('error', () => {});
    socket.write(request(port));
    const [seen] = await accepted;
    const closed = once(seen, 'close');
    await once(socket, 'data');
    socket.write(Buffer.concat([textFrame('whole'), Buffer.from([0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]),
      Buffer.alloc(10_000)]));
    await once(seen, 'message');
    leave(socket);
    assert.equal((await closed)[0], 1006);
  });
}
