// curl: versions, HEAD, h2c and 100-continue; then the access log.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { UPGRADE, connect, freePort, proxy, roundTrip, site, until } from './harness.js';
import { serve } from './peer.js';

const UPLOAD_BYTES = 5 << 20;

async function throughProxy(t, location = '', http = '') {
  const peer = await serve(t, 0, { perMessageDeflate: false });
  const port = await freePort();
  const smolgate = await proxy(t, port, site(port, `
        client_max_body_size 0;
        location / { proxy_pass http://127.0.0.1:${peer.port}; ${location} }`, http));
  return { peer, ...smolgate };
}

// Runs curl. Returns the body, the last line (--write-out), and `talk`, the output of -v.
async function curl(...args) {
  const format = '\n%{http_code} %{http_version} %{size_download}';
  const { stdout, stderr } = await promisify(execFile)('curl', ['-sSv', '--noproxy', '*', '-m', '20', '-w', format, ...args]);
  const body = stdout.slice(0, stdout.lastIndexOf('\n'));
  const [status, version, bytes] = stdout.slice(body.length + 1).split(' ');
  return { status: Number(status), version, bytes: Number(bytes), body, talk: stderr.replaceAll('\r', '') };
}

for (const [flag, version] of [['--http1.0', '1.0'], ['--http1.1', '1.1']]) {
  test(`curl ${flag}`, async (t) => {
    const { url } = await throughProxy(t);
    const reply = await curl(flag, `${url}/page`);
    assert.equal(reply.status, 200);
    assert.equal(JSON.parse(reply.body).url, '/page');
    assert.match(reply.talk, new RegExp(`> GET /page HTTP/${version}\n`));
    if (flag === '--http1.0') assert.doesNotMatch(reply.talk, /< Transfer-Encoding/i);
  });
}

test('two requests on one connection', async (t) => {
  const { url } = await throughProxy(t);
  const { talk } = await curl(`${url}/one`, '-o', '/dev/null', `${url}/two`, '-o', '/dev/null');
  assert.match(talk, /Re-using existing connection/i);
});

test('HEAD', async (t) => {
  const { url } = await throughProxy(t);
  const reply = await curl('-I', `${url}/bytes/12345`);
  assert.equal(reply.status, 200);
  assert.equal(reply.bytes, 0);
  assert.match(reply.talk, /< Content-Length: 12345\n/i);
});

for (const [which, location] of [['a bare proxy_pass', ''], ['the lines of the tutorials', UPGRADE]]) {
  test(`an h2c upgrade gets an HTTP/1.1 response, with ${which}`, async (t) => {
    const { url } = await throughProxy(t, location);
    const reply = await curl('--http2', `${url}/page`);
    assert.match(reply.talk, /> Upgrade: h2c\n/);
    assert.equal(reply.status, 200);
    assert.equal(reply.version, '1.1');
    const { headers } = JSON.parse(reply.body);
    assert.equal(headers.upgrade, undefined);
    assert.equal(headers['http2-settings'], undefined);
  });
}

test('an upload that expects 100-continue', async (t) => {
  const { url } = await throughProxy(t);
  const file = path.join(os.tmpdir(), `interop-upload-${process.pid}`);
  t.after(() => rm(file));
  await writeFile(file, Buffer.alloc(UPLOAD_BYTES, 'x'));
  const reply = await curl('-H', 'Expect: 100-continue', '--expect100-timeout', '19', '-T', file, `${url}/upload`);
  assert.equal(reply.status, 200);
  assert.match(reply.talk, /< HTTP\/1\.1 100 Continue\n/i);
  assert.equal(JSON.parse(reply.body).body.bytes, UPLOAD_BYTES);
});

test('the access log has its line when a tunnel ends, not before', async (t) => {
  const { ws, url, log } = await throughProxy(t, `${UPGRADE} access_log logs/access.log told;`,
    'log_format told \'$remote_addr $status $body_bytes_sent $request_time "$request" "$http_upgrade"\';');
  const socket = await connect(t, `${ws}/live?id=1`);
  const opened = performance.now();
  assert.equal(await roundTrip(socket, 'hello'), 'hello');
  await (await fetch(`${url}/page`)).text();
  await until('the line of the plain request', 5000, async () => (await log('access.log')).includes('/page'));
  assert.doesNotMatch(await log('access.log'), /live/);
  const seconds = (performance.now() - opened) / 1000;
  const closed = once(socket, 'close');
  socket.close(1000);
  await closed;
  const text = await until('the line of the tunnel', 5000, async () => {
    const all = await log('access.log');
    return all.includes('/live') && all;
  });
  const line = text.split('\n').find((one) => one.includes('/live'));
  const fields = line.match(/^127\.0\.0\.1 101 (\d+) (\d+\.\d{3}) "GET \/live\?id=1 HTTP\/1\.1" "websocket"$/);
  assert.ok(fields, line);
  assert.equal(Number(fields[1]), 2 + 'hello'.length + 2 + 2, 'the bytes after the head: one message, one close frame');
  assert.ok(Number(fields[2]) >= seconds - 0.01, `${fields[2]} s in the log, ${seconds} s held`);
});
