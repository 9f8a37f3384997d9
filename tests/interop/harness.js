// Starts a proxy from a configuration text, waits with deadlines instead of sleeps, and reads the memory and the open files of
// the proxy from /proc.
//
// The binary is $SMOLGATE, or the release build of this checkout.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, constants, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { WebSocket } from 'ws';

const BINARY = path.resolve(process.env.SMOLGATE ?? new URL('../../target/release/smolgate', import.meta.url).pathname);
const START_MS = 10_000;
const STOP_MS = 10_000;

// The directives of every tutorial.
export const UPGRADE = `
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";`;

// A complete configuration of one server on `port`, with its error log on stderr.
export const site = (port, server, http = '') => `
error_log stderr info;
events { worker_connections 4096; }
http {
    access_log off;
    ${http}
    server {
        listen 127.0.0.1:${port};
        ${server}
    }
}
`;

// Runs the proxy on a configuration that listens on `port`, until the test `t` ends.
export async function proxy(t, port, config) {
  await access(BINARY, constants.X_OK).catch(() => {
    assert.fail(`no program at ${BINARY}: cargo build --release makes it, SMOLGATE names another`);
  });
  const dir = await mkdtemp(path.join(os.tmpdir(), 'smolgate-'));
  await mkdir(path.join(dir, 'logs'));
  await writeFile(path.join(dir, 'file.conf'), config);
  const child = spawn(BINARY, ['-p', dir, '-c', path.join(dir, 'file.conf')], { stdio: ['ignore', 'inherit', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (text) => { errors += text; });
  const running = () => child.exitCode === null && child.signalCode === null;
  t.after(async () => {
    if (running()) {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
      await once(child, 'exit');
      clearTimeout(timer);
    }
    await rm(dir, { recursive: true });
    if (!t.passed) t.diagnostic(`the output of the proxy: ${errors.slice(-4000)}`);
    assert.equal(child.signalCode ?? child.exitCode, 0, `the proxy did not stop by itself on SIGTERM: ${errors}`);
  });
  await until('the proxy listens', START_MS, () => {
    assert.ok(running(), `the proxy ended at once:\n${errors}`);
    return canConnect(port);
  });
  return {
    pid: child.pid,
    url: `http://127.0.0.1:${port}`,
    ws: `ws://127.0.0.1:${port}`,
    port,
    log: (name) => readFile(path.join(dir, 'logs', name), 'utf8').catch(() => ''),
  };
}

const canConnect = (port) => new Promise((resolve) => {
  const socket = net.connect(port, '127.0.0.1');
  socket.on('connect', () => { socket.destroy(); resolve(true); });
  socket.on('error', () => resolve(false));
});

export async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

// Skips the test where a port that the text of a tutorial names is in use already.
export async function portsFree(t, ...ports) {
  for (const port of ports) {
    if (await canConnect(port)) {
      t.skip(`port ${port}, which the tutorial names, is taken on this machine`);
      return false;
    }
  }
  return true;
}

// Asks again and again until `check` gives something true, and gives that.
export async function until(what, ms, check) {
  const deadline = Date.now() + ms;
  for (;;) {
    const answer = await check();
    if (answer) return answer;
    assert.ok(Date.now() < deadline, `waited ${ms} ms in vain: ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 20); });
  }
}

// An open WebSocket that ends with the test.
export async function connect(t, url, protocols = [], options = {}) {
  const socket = new WebSocket(url, protocols, { perMessageDeflate: false, ...options });
  t.after(() => socket.terminate());
  const first = once(socket, 'message'); // may come in the same segment as the 101
  first.catch(() => {});
  await once(socket, 'open');
  socket.first = first;
  socket.on('error', () => {}); // later ones show as 'close'
  return socket;
}

// Sends a message and gives the next one that comes.
export const roundTrip = (socket, message) => new Promise((resolve, reject) => {
  const closed = (code) => reject(new Error(`the WebSocket is closed: ${code}`));
  if (socket.readyState !== socket.OPEN) closed('before the message');
  socket.once('close', closed);
  socket.once('message', (data, isBinary) => {
    socket.off('close', closed);
    resolve(isBinary ? data : data.toString());
  });
  socket.send(message);
});

// Sizes in kB as the kernel counts them: VmRSS now, VmHWM the most since `forgetPeak`.
export async function memory(pid) {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const field = (name) => Number(status.match(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm'))[1]);
  return { rss: field('VmRSS'), peak: field('VmHWM') };
}

export const forgetPeak = (pid) => writeFile(`/proc/${pid}/clear_refs`, '5');

export const openFiles = async (pid) => (await readdir(`/proc/${pid}/fd`)).length;
