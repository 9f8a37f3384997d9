// The application behind the proxy: an HTTP server that reports what it got, and a WebSocket server that echoes.
//
//   /hang         never responds                  /part   sends half of a body and then nothing
//   /bytes/N      N bytes                        others  the request as JSON
//
// `serve(t, port)` runs it in this process, `spawnPeer(t)` in a new process, which a test can kill.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { pipeline } from 'node:stream/promises';
import { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { WebSocketServer } from 'ws';

const MEGABYTE = Buffer.alloc(1 << 20, 'smolgate');

// `count` bytes of known content, in chunks.
export function* pieces(count) {
  for (let left = count; left > 0; left -= MEGABYTE.length) yield MEGABYTE.subarray(0, Math.min(left, MEGABYTE.length));
}

export const sha256 = (data) => createHash('sha256').update(data).digest('hex');

export async function hashOf(stream) {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const piece of stream) {
    bytes += piece.length;
    hash.update(piece);
  }
  return { bytes, sha256: hash.digest('hex') };
}

async function answer(request, response) {
  if (request.url.endsWith('/hang')) return;
  if (request.url.endsWith('/part')) {
    response.writeHead(200, request.headers['x-chunked'] ? {} : { 'Content-Length': 1000 });
    response.write('x'.repeat(500));
    return;
  }
  const bytes = request.url.match(/\/bytes\/(\d+)$/);
  if (bytes) {
    response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'Content-Length': bytes[1] });
    await pipeline(Readable.from(pieces(Number(bytes[1]))), response).catch(() => {}); // the client may leave
    return;
  }
  const { method, url, headers, httpVersion } = request;
  const body = await hashOf(request).catch(() => null);
  const text = JSON.stringify({ method, url, headers, httpVersion, body, peer: request.socket.localPort });
  response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) });
  response.end(text);
}

async function listen(port, options = {}) {
  const server = http.createServer(answer);
  const sockets = new WebSocketServer({ server, perMessageDeflate: true, ...options });
  sockets.on('connection', (socket) => {
    socket.on('error', () => {});
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  return { server, sockets, port: server.address().port };
}

export async function serve(t, port = 0, options = {}) {
  const peer = await listen(port, options);
  t.after(() => {
    for (const socket of peer.sockets.clients) socket.terminate();
    peer.server.close();
    peer.server.closeAllConnections();
  });
  return peer;
}

export async function spawnPeer(t) {
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url)], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const [port] = await once(child.stdout, 'data');
  return { child, port: Number(port) };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log((await listen(0)).port);
