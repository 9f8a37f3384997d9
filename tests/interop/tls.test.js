// wss:// with the configuration of tutorials and certificates as written by certbot, from node and from a browser.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { access, constants, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import tls from 'node:tls';
import { chromium } from 'playwright-core';
import { connect, portsFree, proxy, roundTrip } from './harness.js';
import { serve } from './peer.js';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const NAME = 'chat.example.com';

// What certbot writes, in `dir` instead of /etc/letsencrypt.
const TUTORIAL = (dir) => `
events { worker_connections 1024; }

http {
    map $http_upgrade $connection_upgrade {
        default upgrade;
        '' close;
    }

    upstream websocket {
        server 127.0.0.1:8010;
    }

    server {
        listen 443 ssl;
        server_name ${NAME};

        ssl_certificate ${dir}/live/${NAME}/fullchain.pem;
        ssl_certificate_key ${dir}/live/${NAME}/privkey.pem;

        location / {
            proxy_pass http://websocket;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_read_timeout 300s;
        }

        location = /page {
            default_type text/html;
            return 200 '<!doctype html><title>page</title>';
        }
    }
}
`;

// Creates a directory with certificates. Returns it with the certificate of their issuer.
async function certified(t) {
  const dir = await mkdtemp(path.join(os.tmpdir(), 'smolgate-tls-'));
  t.after(() => rm(dir, { recursive: true }));
  const openssl = (...args) => execFileSync('openssl', args, { cwd: dir, stdio: ['ignore', 'pipe', 'ignore'] });
  const key = ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  const live = `live/${NAME}`;
  execFileSync('mkdir', ['-p', live], { cwd: dir });
  await writeFile(path.join(dir, 'names'), `subjectAltName=DNS:${NAME}\nextendedKeyUsage=serverAuth\n`);
  openssl('req', '-x509', '-newkey', ...key, '-keyout', 'ca.key', '-out', 'ca.crt', '-subj', '/CN=issuer', '-days', '90');
  openssl('req', '-newkey', ...key, '-keyout', `${live}/privkey.pem`, '-out', 'own.csr', '-subj', `/CN=${NAME}`);
  openssl('x509', '-req', '-in', 'own.csr', '-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '30',
    '-extfile', 'names', '-out', 'own.crt');
  const ca = await readFile(path.join(dir, 'ca.crt'), 'utf8');
  await writeFile(path.join(dir, live, 'fullchain.pem'), await readFile(path.join(dir, 'own.crt'), 'utf8') + ca);
  return { dir, ca };
}

async function start(t) {
  if (!await portsFree(t, 443, 8010)) return null;
  const { dir, ca } = await certified(t);
  await serve(t, 8010);
  const { port } = await proxy(t, 443, TUTORIAL(dir));
  return { port, ca };
}

// Resolves NAME to the proxy.
const here = { lookup: (name, options, done) => (options.all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4)) };

test('wss:// from node', async (t) => {
  const started = await start(t);
  if (!started) return;
  const { ca } = started;
  for (const maxVersion of ['TLSv1.2', 'TLSv1.3']) {
    const socket = await connect(t, `wss://${NAME}/ws/`, [], { ca, maxVersion, ...here });
    assert.equal(await roundTrip(socket, 'hello'), 'hello');
    const big = Buffer.alloc(3 << 20, 'smolgate');
    assert.ok(big.equals(await roundTrip(socket, big)));
  }
});

test('node resumes its sessions', async (t) => {
  const started = await start(t);
  if (!started) return;
  const { ca } = started;
  const reused = [];
  for (const maxVersion of ['TLSv1.2', 'TLSv1.3']) {
    const agent = new https.Agent({ ca, maxVersion, keepAlive: false, ...here });
    t.after(() => agent.destroy());
    for (const _ of [1, 2]) {
      await new Promise((resolve, reject) => {
        const request = https.get(`https://${NAME}/page`, { agent }, (response) => {
          reused.push(response.socket.isSessionReused());
          response.resume().on('end', resolve);
        });
        request.on('error', reject);
      });
    }
  }
  assert.deepEqual(reused, [false, true, false, true]);
});

test('another name, and a client without a trusted issuer', async (t) => {
  const started = await start(t);
  if (!started) return;
  const { ca, port } = started;
  const refusal = (options) => new Promise((resolve, reject) => {
    const socket = tls.connect({ host: '127.0.0.1', port, servername: NAME, ...options }, () => reject(new Error('it connects')));
    socket.on('error', (error) => resolve(error.code));
  });
  assert.equal(await refusal({ ca, servername: 'other.example' }), 'ERR_TLS_CERT_ALTNAME_INVALID');
  assert.ok(['SELF_SIGNED_CERT_IN_CHAIN', 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY'].includes(await refusal({})));
});

test('wss:// from a browser', async (t) => {
  const started = await start(t);
  if (!started) return;
  await access(CHROMIUM, constants.X_OK).catch(() => assert.fail(`no browser at ${CHROMIUM}: apt-get install chromium`));
  const profile = await mkdtemp(path.join(os.tmpdir(), 'smolgate-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM, ignoreHTTPSErrors: true, timeout: 30_000,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--no-proxy-server',
      '--disable-component-update', '--disable-sync', `--host-resolver-rules=MAP ${NAME} 127.0.0.1`],
  });
  t.after(async () => {
    await context.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  });
  const page = await context.newPage();
  const response = await page.goto(`https://${NAME}/page`);
  assert.equal(response.status(), 200);
  assert.equal((await response.securityDetails()).protocol, 'TLS 1.3');
  const echoed = await page.evaluate(() => new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${location.host}/ws/`), said = [];
    socket.onerror = () => reject(new Error('the WebSocket failed'));
    socket.onopen = () => socket.send('one');
    socket.onmessage = ({ data }) => {
      said.push(data);
      if (said.length === 1) return socket.send('x'.repeat(300_000));
      socket.close();
      resolve([said[0], said[1].length]);
    };
  }));
  assert.deepEqual(echoed, ['one', 300_000]);
});
