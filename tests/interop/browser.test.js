// The demo and the status page in Debian's Chromium ($CHROMIUM is the path of another). Screenshots of both are written to
// target/screenshots.
//
// The demo is $DEMO, or the release build of this checkout.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, constants, mkdir, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { chromium } from 'playwright-core';
import { freePort, proxy, site, until } from './harness.js';

const here = (name) => new URL(`../../target/${name}`, import.meta.url).pathname;
const DEMO = path.resolve(process.env.DEMO ?? here('release/examples/demo'));
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const SCREENSHOTS = here('screenshots');
const WAIT_MS = 30_000;
const FLAGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];

// Starts a browser with a new profile, until the test `t` ends.
async function browser(t) {
  await access(CHROMIUM, constants.X_OK).catch(() => assert.fail(`no browser at ${CHROMIUM}: apt-get install chromium`));
  const profile = await mkdtemp(path.join(os.tmpdir(), 'smolgate-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM, args: FLAGS, viewport: { width: 1100, height: 860 }, timeout: WAIT_MS,
  });
  context.setDefaultTimeout(WAIT_MS);
  t.after(async () => {
    await context.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  });
  await mkdir(SCREENSHOTS, { recursive: true });
  return context;
}

// Opens a page. Returns it with the errors of its scripts and its policy.
async function visit(context, url) {
  const page = await context.newPage(), errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => { if (message.type() === 'error') errors.push(message.text()); });
  const answer = await page.goto(url);
  assert.equal(answer.status(), 200);
  return { page, errors };
}

async function picture(page, name) {
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: path.join(SCREENSHOTS, `${name}-${colorScheme}.png`), fullPage: true });
  }
}

// Starts the demo until the test `t` ends. Returns its address.
async function demo(t) {
  await access(DEMO, constants.X_OK).catch(() => assert.fail(`no demo at ${DEMO}: cargo build --release --example demo`));
  const child = spawn(DEMO, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(async () => {
    if (child.exitCode === null) {
      child.kill('SIGINT');
      await once(child, 'exit');
    }
    assert.equal(child.exitCode, 0, 'the demo did not end by itself');
  });
  let output = '';
  child.stdout.on('data', (text) => { output += text; });
  const found = await until('the demo says its address', WAIT_MS, () => {
    assert.equal(child.exitCode, null, `the demo ended at once: ${output}`);
    return output.match(/open (http:\/\/[^/]+)\//);
  });
  return found[1];
}

test('the demo echoes a hundred messages, and the status page shows its tunnels', async (t) => {
  const url = await demo(t), context = await browser(t);
  const { page, errors } = await visit(context, `${url}/`);
  await page.locator('#echo.on').waitFor();
  await page.locator('#chat.on').waitFor();
  await page.getByRole('button', { name: 'Send 100' }).click();
  await page.getByText('message 100 of 100').waitFor();
  const shown = (await page.locator('#echo li span').allTextContents()).filter((text) => text.startsWith('message '));
  assert.deepEqual(shown, Array.from({ length: 100 }, (_, i) => `message ${i + 1} of 100`));
  await page.locator('#chat input').fill('hello through smolgate');
  await page.locator('#chat').getByRole('button', { name: 'Send' }).click();
  await page.locator('#chat li').getByText('hello through smolgate').waitFor();
  await picture(page, 'demo');

  const { page: status, errors: more } = await visit(context, `${url}/status`);
  const tile = (name) => status.locator('section', { has: status.getByRole('heading', { name, exact: true }) });
  await tile('Tunnels open').locator('.now').getByText('2', { exact: true }).waitFor();
  await status.locator('#state').getByText('live').waitFor();
  const peer = status.getByRole('row').filter({ hasText: '127.0.0.1:' });
  assert.deepEqual((await peer.locator('td').allTextContents()).slice(1, 4), ['up', '2', '2']);
  assert.equal(await status.locator('caption').textContent(), 'app');
  // Some seconds of traffic for the charts.
  for (let i = 0; i < 6; i++) {
    const points = () => tile('To clients').locator('path').last()
      .evaluate((line) => (line.getAttribute('d') ?? '').split('L').length);
    const before = await points();
    await page.getByRole('button', { name: 'Send 100' }).click();
    await until('another point of the line', WAIT_MS, async () => await points() > before);
  }
  await picture(status, 'status');
  await status.setViewportSize({ width: 360, height: 740 });
  await picture(status, 'status-phone');
  const width = await status.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 360, `the page is ${width} pixels wide on a screen of 360`);
  await page.setViewportSize({ width: 360, height: 740 });
  await picture(page, 'demo-phone');
  await page.close();
  await tile('Tunnels open').locator('.now').getByText('0', { exact: true }).waitFor();
  await status.getByRole('button', { name: 'Pause' }).click();
  await status.locator('#state').getByText('paused').waitFor();
  assert.deepEqual([...errors, ...more], []);
});

test('names of upstreams are escaped, and only scripts of the page itself may run', async (t) => {
  const port = await freePort(), evil = '<img src=x onerror="document.title=1">';
  await proxy(t, port, site(port, 'location /status { status html; }',
    `upstream '${evil}' { server 'unix:/nowhere/${evil}' weight=3; server 127.0.0.1:1 down; server name.invalid backup; }`));
  const context = await browser(t);
  const { page, errors } = await visit(context, `http://127.0.0.1:${port}/status`);
  await page.getByRole('row').filter({ hasText: 'name.invalid:80' }).waitFor();
  assert.equal(await page.locator('caption').textContent(), evil);
  const rows = await page.getByRole('row').allTextContents();
  assert.equal(rows[1], `unix:/nowhere/${evil}up, weight 300–0`);
  assert.equal(await page.locator('img').count(), 0);
  assert.deepEqual(errors, []);
  await picture(page, 'status-peers');
  const ran = await page.evaluate(() => {
    const script = document.createElement('script');
    script.textContent = 'window.ran = true';
    document.body.append(script);
    return window.ran === true;
  });
  assert.equal(ran, false, 'the policy lets other scripts run');
});
