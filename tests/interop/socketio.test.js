// Socket.IO: long polling, the upgrade from it, and polling alone, with two nodes behind `ip_hash`, as in its manual.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { Server } from 'socket.io';
import { io } from 'socket.io-client';
import { UPGRADE, freePort, proxy, site } from './harness.js';

async function node(t) {
  const server = http.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const application = new Server(server);
  t.after(() => application.close());
  application.on('connection', (socket) => {
    socket.emit('welcome', socket.id);
    socket.on('echo', (value, reply) => reply(value));
  });
  return server.address().port;
}

async function throughProxy(t) {
  const nodes = [await node(t), await node(t)];
  const port = await freePort();
  return proxy(t, port, site(port, `
        client_max_body_size 0;
        location / {
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header Host $host;
            proxy_pass http://nodes;${UPGRADE}
        }`, `
    upstream nodes {
        ip_hash;
        ${nodes.map((peer) => `server 127.0.0.1:${peer};`).join(' ')}
    }`));
}

// Connects a client.
async function client(t, url, transports) {
  const socket = io(url, { transports, forceNew: true, reconnection: false });
  t.after(() => socket.close());
  const upgraded = new Promise((resolve) => { socket.io.on('open', () => socket.io.engine.once('upgrade', resolve)); });
  await new Promise((resolve, reject) => {
    socket.on('connect_error', reject);
    socket.on('welcome', (id) => { assert.equal(id, socket.id); resolve(); });
  });
  return { socket, upgraded, transport: () => socket.io.engine.transport.name };
}

async function talk(socket) {
  for (const value of ['text', 'x'.repeat(200_000), { deep: [1, null, 'ü'] }]) {
    assert.deepEqual(await socket.timeout(10_000).emitWithAck('echo', value), value);
  }
  const bytes = Buffer.from([0, 1, 254, 255]);
  assert.deepEqual(Buffer.from(await socket.timeout(10_000).emitWithAck('echo', bytes)), bytes);
}

test('polling, then an upgrade to WebSocket', async (t) => {
  const { url } = await throughProxy(t);
  const { socket, upgraded, transport } = await client(t, url, ['polling', 'websocket']);
  await talk(socket);
  await upgraded;
  assert.equal(transport(), 'websocket');
  await talk(socket);
});

test('polling only', async (t) => {
  const { url } = await throughProxy(t);
  const { socket, transport } = await client(t, url, ['polling']);
  await talk(socket);
  assert.equal(transport(), 'polling');
});

test('WebSocket from the start, twenty clients', async (t) => {
  const { url } = await throughProxy(t);
  await Promise.all(Array.from({ length: 20 }, async () => talk((await client(t, url, ['websocket'])).socket)));
});
