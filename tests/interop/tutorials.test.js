// Configurations from tutorials, word for word, ports included: each must work unchanged, with wscat, the client of the tutorials,
// and with other clients.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { connect, portsFree, proxy, roundTrip, until } from './harness.js';
import { serve } from './peer.js';

const WSCAT = fileURLToPath(new URL('node_modules/.bin/wscat', import.meta.url));

const FRAGMENT = `map $http_upgrade $connection_upgrade {
    default upgrade;
    '' close;
}

upstream websocket {
    server 127.0.0.1:8010;
}

server {
    listen 8020;
    location / {
        proxy_pass http://websocket;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
    }
}
`;

const WHOLE_FILE = `worker_processes auto;
error_log logs/error.log info;

events {
    worker_connections 1024;
}

http {
    map $http_upgrade $connection_upgrade {
        default upgrade;
        ''      close;
    }

    upstream websocket {
        server 127.0.0.1:8010;
    }

    server {
        listen 8020;

        location /ws/ {
            proxy_pass http://websocket;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $host;
        }

        location /chat/ {
            proxy_pass http://websocket;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $host;
        }
    }
}
`;

const TWO_PEERS = `events {
    worker_connections 1024;
}

http {
    upstream wsbackend {
        server 127.0.0.1:8080;
        server 127.0.0.1:8081;
    }

    server {
        listen 8020;
        server_name ws.example.com;

        location / {
            proxy_pass http://wsbackend;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }
    }
}
`;

const BARE = `events {}
http {
    server {
        listen 8020;
        location / {
            proxy_pass http://127.0.0.1:8010;
        }
    }
}
`;

// Types lines into wscat and expects their echo.
async function wscat(t, url, ...lines) {
  const child = spawn(process.execPath, [WSCAT, '--no-color', '-c', url], { stdio: ['pipe', 'pipe', 'pipe'] });
  t.after(() => child.kill('SIGKILL'));
  let output = '';
  child.stdout.on('data', (text) => { output += text; });
  child.stderr.on('data', (text) => { output += text; });
  const exit = once(child, 'exit');
  // wscat drops input before it is connected, so the first line is repeated until it is echoed.
  for (const line of lines) {
    let tries = 0;
    await until(`wscat hears ${line}`, 10_000, () => {
      assert.equal(child.exitCode, null, `wscat ended: ${output}`);
      if (tries++ % 10 === 0) child.stdin.write(`${line}\n`);
      return output.includes(`${line}\n`);
    });
  }
  child.stdin.end();
  assert.equal((await exit)[0], 0, output);
}

test('a bare fragment: map, upstream, server', async (t) => {
  if (!await portsFree(t, 8010, 8020)) return;
  await serve(t, 8010);
  const { ws, url } = await proxy(t, 8020, FRAGMENT);
  await wscat(t, ws, 'hello', 'again');
  assert.equal(await roundTrip(await connect(t, ws), 'a program'), 'a program');
  assert.equal((await (await fetch(`${url}/page`)).json()).headers.connection, 'close');
});

test('a whole file with two locations', async (t) => {
  if (!await portsFree(t, 8010, 8020)) return;
  const peer = await serve(t, 8010);
  const { ws, url } = await proxy(t, 8020, WHOLE_FILE);
  const paths = [];
  peer.sockets.on('connection', (_, request) => paths.push(request.url));
  await wscat(t, `${ws}/ws/`, 'hello');
  await wscat(t, `${ws}/chat/room?id=1`, 'hello');
  assert.deepEqual(paths, ['/ws/', '/chat/room?id=1']);
  assert.equal((await fetch(`${url}/other`)).status, 404);
});

test('two peers of an upstream, requests and upgrades', async (t) => {
  if (!await portsFree(t, 8080, 8081, 8020)) return;
  const peers = [await serve(t, 8080), await serve(t, 8081)];
  const { ws, url } = await proxy(t, 8020, TWO_PEERS);
  const headers = { Host: 'ws.example.com' };
  for (let i = 0; i < 4; i++) {
    const socket = await connect(t, `${ws}/live`, [], { headers });
    assert.equal(await roundTrip(socket, `n${i}`), `n${i}`);
  }
  for (const peer of peers) assert.ok(peer.sockets.clients.size > 0, `tunnels reach ${peer.port}`);
  const seen = new Set();
  for (const body of [undefined, 'a=1', undefined, 'a=1']) {
    const reply = await (await fetch(`${url}/page`, { method: body ? 'POST' : 'GET', body })).json();
    assert.equal(reply.method, body ? 'POST' : 'GET');
    assert.equal(reply.body.bytes, body?.length ?? 0);
    assert.equal(reply.headers['x-real-ip'], '127.0.0.1');
    assert.equal(reply.headers['x-forwarded-for'], '127.0.0.1');
    seen.add(reply.peer);
  }
  assert.deepEqual([...seen].sort(), [8080, 8081], 'plain requests reach both peers');
});

test('a bare proxy_pass upgrades WebSocket by itself', async (t) => {
  if (!await portsFree(t, 8010, 8020)) return;
  await serve(t, 8010);
  const { ws, url } = await proxy(t, 8020, BARE);
  assert.equal((await fetch(url)).status, 200);
  await wscat(t, ws, 'hello');
});
