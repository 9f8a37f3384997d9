// Runs the fuzzing client of Autobahn|Testsuite ($WSTEST) against Node's `ws`, directly and through the proxy, and
// compares the two reports case by case.
//
// The comparison covers the messages, but not times or TCP segments: see `FIELDS`. Where the suite calls the outcome informational
// (what is still echoed after a close depends on timing), only the end of the connection is compared. A few cases are races inside
// the server, which may respond to a first frame before or after it has seen an invalid second one. So a case that differs is run
// again several times each way, and passes if the server alone has shown every outcome of the proxy too.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { UPGRADE, freePort, proxy, site } from '../harness.js';
import { serve } from '../peer.js';

// Only the first two cases of each group of compression, which takes most of the time.
const compressed = (major, groups) => Array.from({ length: groups * 2 },
  (_, i) => `${major}.${1 + Math.floor(i / 2)}.${1 + (i % 2)}`);
const CASES = process.env.LONG ? ['*'] : [
  ...Array.from({ length: 10 }, (_, i) => `${i + 1}.*`), ...compressed(12, 5), ...compressed(13, 7)];
const CASES_MIN = process.env.LONG ? 517 : 325;
// 4 MB in frames of 64 bytes exceed the defaults of `ws`.
const SERVER = { maxFragments: 1 << 20, maxBufferedChunks: 1 << 20 };
const RUNS_AGAIN = 5;
const FIELDS = ['behavior', 'behaviorClose', 'result', 'resultClose', 'received', 'rxFrameStats', 'wasClean',
  'wasNotCleanReason', 'closedByMe', 'failedByMe', 'droppedByMe', 'remoteCloseCode', 'remoteCloseReason',
  'wasServerConnectionDropTimeout', 'wasOpenHandshakeTimeout', 'wasCloseHandshakeTimeout'];
const MESSAGE_FIELDS = ['result', 'received', 'rxFrameStats'];
const SOUND = ['OK', 'NON-STRICT', 'INFORMATIONAL', 'UNIMPLEMENTED'];

// Runs the cases against each of the servers (name: URL). Returns outcomes[name][case].
async function fuzz(t, servers, cases) {
  const dir = await mkdtemp(path.join(os.tmpdir(), 'autobahn-'));
  t.after(() => rm(dir, { recursive: true }));
  const list = Object.entries(servers).map(([agent, url]) => ({ agent, url }));
  await writeFile(path.join(dir, 'spec.json'), JSON.stringify({
    outdir: dir, servers: list, cases, 'exclude-cases': [], 'exclude-agent-cases': {},
  }));
  await promisify(execFile)(process.env.WSTEST, ['-m', 'fuzzingclient', '-s', path.join(dir, 'spec.json')],
    { maxBuffer: Infinity });
  const index = JSON.parse(await readFile(path.join(dir, 'index.json')));
  const outcomes = {};
  for (const [agent, reports] of Object.entries(index)) {
    outcomes[agent] = {};
    for (const [id, { reportfile }] of Object.entries(reports)) {
      const report = JSON.parse(await readFile(path.join(dir, reportfile)));
      const fields = FIELDS.filter((name) => report.behavior !== 'INFORMATIONAL' || !MESSAGE_FIELDS.includes(name));
      outcomes[agent][id] = JSON.stringify(Object.fromEntries(fields.map((name) => [name, report[name]])));
    }
  }
  return outcomes;
}

const field = (outcome, name) => JSON.parse(outcome)[name];

// Formats the difference of two outcomes.
const difference = (direct, proxied) => FIELDS
  .map((name) => [name, JSON.stringify(field(direct, name)), JSON.stringify(field(proxied, name))])
  .filter(([, one, other]) => one !== other)
  .map(([name, one, other]) => `${name}: ${one?.slice(0, 200)} directly, ${other?.slice(0, 200)} through the proxy`);

test('every case ends the same way directly and through the proxy', async (t) => {
  const peer = await serve(t, 0, SERVER);
  const port = await freePort();
  const smolgate = await proxy(t, port, site(port, `location / { proxy_pass http://127.0.0.1:${peer.port};${UPGRADE} }`));
  const direct = `ws://127.0.0.1:${peer.port}`;

  const first = await fuzz(t, { direct, proxied: smolgate.ws }, CASES);
  const cases = Object.keys(first.direct);
  assert.ok(cases.length >= CASES_MIN, `only ${cases.length} cases ran`);
  assert.deepEqual(Object.keys(first.proxied), cases);
  for (const id of cases) {
    const behavior = field(first.direct[id], 'behavior');
    assert.ok(SOUND.includes(behavior), `the server itself fails case ${id}: ${behavior}`);
  }

  const differing = cases.filter((id) => first.direct[id] !== first.proxied[id]);
  t.diagnostic(`${cases.length} cases, ${differing.length} to run again: ${differing.join(' ')}`);
  if (differing.length === 0) return;
  const servers = {};
  for (let i = 0; i < RUNS_AGAIN; i++) Object.assign(servers, { [`direct${i}`]: direct, [`proxied${i}`]: smolgate.ws });
  const again = await fuzz(t, servers, differing);
  const seen = (name, id) => new Set(Object.keys(again).concat('direct', 'proxied')
    .filter((agent) => agent.startsWith(name)).map((agent) => (again[agent] ?? first[agent])[id]));
  const failures = [];
  for (const id of differing) {
    const alone = seen('direct', id);
    for (const outcome of seen('proxied', id)) {
      if (!alone.has(outcome)) failures.push(`case ${id}: ${difference(first.direct[id], outcome).join('; ')}`);
    }
  }
  assert.equal(failures.length, 0, failures.join('\n'));
});
