// Does in a real browser what people come to the page for.
//
//   node tests/browser/tasks.mjs --url URL_WITH_TOKEN --kubectl COMMAND [--chromium /usr/bin/chromium]
//
// Wants the objects of examples/ and tests/browser/tasks.yaml. Exit status: 0 fine, 1 a check failed.

import assert from 'node:assert/strict';
import { execSync } from 'node:child_process';
import { parseArgs } from 'node:util';

import { check, launch, visit } from './visit.mjs';

const { values: options } = parseArgs({
  options: { url: { type: 'string' }, kubectl: { type: 'string' }, chromium: { type: 'string', default: '/usr/bin/chromium' } },
});
assert(options.url && options.kubectl, 'say --url and --kubectl');
const kubectl = (rest, input) => execSync(`${options.kubectl} ${rest}`, { input, encoding: 'utf8' });

const browser = await launch(options.chromium);
try {
  const { page, complaints, origin, context } = await visit(browser, options.url);
  const open = (hash) => page.goto(`${origin}/${hash}`);
  await page.goto(options.url);
  await page.locator('[data-connection="live"]').waitFor();

  await check('why a Service has no endpoints is found from the map', async () => {
    await page.locator('[data-kind="service"][data-key="default/shop"]').click();
    await page.locator('aside').getByRole('link', { name: 'Explain' }).click();
    await page.locator('[data-page="Service"] h2', { hasText: 'shop' }).waitFor();
    await page.locator('[data-serving="does not serve"]').waitFor();
    await page.locator('[data-no-endpoints]').waitFor();
    const findings = page.locator('[data-code="LabelTypo"]');
    await findings.first().waitFor();
    assert.match(await findings.first().innerText(), /shpo/);
  });

  await check('the mended Service serves, and the page follows without a reload', async () => {
    kubectl(`patch service shop --type=merge -p '{"spec":{"selector":{"app":"shop"}}}'`);
    await page.locator('[data-serving="serves"]').waitFor();
    await page.locator('[data-endpoint]', { hasText: 'shop-1' }).first().waitFor();
    const sick = page.locator('.miss', { hasText: 'sick' });
    await sick.waitFor();
    assert.match(await sick.innerText(), /probe|refused/i);
  });

  await check('a Service of which one port leads nowhere serves in part', async () => {
    const port = (op, value) => kubectl(`patch service shop --type=json -p '${JSON.stringify([{ op, path: '/spec/ports/1', value }])}'`);
    port('add', { name: 'admin', port: 81, targetPort: 'admin' });
    await page.locator('[data-serving="serves in part"]').waitFor();
    port('remove');
    await page.locator('[data-serving="serves"]').waitFor();
  });

  await check('hostile annotations are text in the YAML', async () => {
    await page.getByText('YAML', { exact: true }).click();
    await page.locator('pre', { hasText: '<script>document.title' }).waitFor();
    assert.equal(await page.title(), 'Vipyard');
    assert.equal(await page.locator('#app img, #app script').count(), 0);
  });

  await check('a Pod is watched while it is replaced', async () => {
    await open('#/services/default/web');
    const pod = page.locator('[data-endpoint]', { hasText: 'web-3' }).first();
    await pod.waitFor();
    const before = await pod.getAttribute('data-endpoint');
    const manifest = kubectl('get pod web-3 -o json');
    kubectl('delete pod web-3 --wait=true');
    await pod.waitFor({ state: 'detached' });
    const { metadata: { name, labels }, spec: { containers } } = JSON.parse(manifest);
    kubectl('apply -f -', JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name, labels }, spec: { containers: containers.map(({ volumeMounts: _, ...rest }) => rest) } }));
    await page.locator('[data-endpoint].ready', { hasText: 'web-3' }).first().waitFor();
    assert.notEqual(await pod.getAttribute('data-endpoint'), before);
  });

  await check('one request is followed from its client to its Pod', async () => {
    await open('#/flows?service=default%2Fweb');
    const flow = page.locator('[data-flow="end"]', { hasText: 'default/client' }).first();
    await flow.waitFor();
    await page.getByRole('button', { name: 'Pause' }).click();
    assert.match(await flow.innerText(), /10\.96\.\d+\.\d+:80/);
    const server = flow.getByRole('link', { name: /default\/web-/ });
    const name = (await server.innerText()).split('/')[1];
    await server.click();
    await page.locator('[data-page="Pod"] h2', { hasText: name }).waitFor();
    await page.getByRole('link', { name: 'default/web', exact: true }).waitFor();
    await page.locator('[data-log]', { hasText: /./ }).waitFor({ state: 'attached' });
  });

  await check('a request is explained step by step', async () => {
    await open('#/explain');
    await page.getByLabel('From', { exact: true }).fill('pod/default/client');
    await page.getByLabel('To', { exact: true }).fill('web:80');
    await page.getByRole('button', { name: 'Explain', exact: true }).click();
    await page.locator('[data-reachable="true"]').waitFor();
    for (const step of ['dns', 'match', 'candidates', 'pick', 'rewrite', 'deliver', 'reply']) await page.locator(`[data-step="${step}"]`).first().waitFor();
    await page.getByLabel('To', { exact: true }).fill('web:81');
    await page.keyboard.press('Enter');
    await page.locator('[data-reachable="false"]').waitFor();
  });

  await check('what a hostile Pod writes is text in its log', async () => {
    await open('#/pods/default/hostile');
    const log = page.locator('[data-log]', { hasText: '<script>document.title' });
    await log.waitFor();
    const text = await log.innerText();
    assert.match(text, /␛\[31mred␇/);
    assert.match(text, /\\u\{202e\}/);
    assert(!text.includes('\u001b') && !text.includes('\u202e'));
    assert.equal(await page.title(), 'Vipyard');
    assert.equal(await page.locator('#app img, #app script').count(), 0);
  });

  await check('a broken manifest is refused, each message at its line, and nothing is changed', async () => {
    await open('#/edit');
    const yaml = page.getByRole('textbox', { name: 'YAML' });
    const good = 'apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: made-here\ndata:\n  a: b\n';
    await yaml.fill(`${good}---\napiVersion: v1\nkind: Service\nmetadata:\n  name: broken\nspec:\n  ports:\n    - name: http\n      port: 99999\n`);
    await page.getByRole('button', { name: 'Apply', exact: true }).click();
    const problem = page.locator('[data-line]').first();
    await problem.waitFor();
    assert.match(await problem.innerText(), /line 15\s+spec\.ports\[0\]\.port\s+.*65535/s);
    assert.equal(await yaml.getAttribute('aria-invalid'), 'true');
    assert.equal(kubectl('get configmap made-here --ignore-not-found -o name'), '', 'the first document is not made either');
    await yaml.fill(`${good}  nested:\n  - x: [\n`);
    await page.getByRole('button', { name: 'Apply', exact: true }).click();
    await page.locator('[data-line]').first().waitFor();
    expectErrors(complaints);
    await yaml.fill(good);
    await page.getByRole('button', { name: 'Apply', exact: true }).click();
    await page.getByText('ConfigMap made-here: created').waitFor();
    assert.match(kubectl('get configmap made-here -o name'), /made-here/);
  });

  await check('an object is edited and deleted', async () => {
    await open('#/edit?path=%2Fapi%2Fv1%2Fnamespaces%2Fdefault%2Fservices%2Fshop');
    const yaml = page.getByRole('textbox', { name: 'YAML' });
    await page.waitForFunction(() => document.querySelector('textarea')?.value.includes('resourceVersion'));
    await yaml.fill((await yaml.inputValue()).replace('port: 80', 'port: 8080'));
    await page.getByRole('button', { name: 'Apply', exact: true }).click();
    await page.getByText('Service default/shop: replaced').waitFor();
    assert.equal(kubectl("get service shop -o jsonpath='{.spec.ports[0].port}'"), '8080');
    await open('#/services/default/shop');
    await page.getByRole('button', { name: 'Delete', exact: true }).click();
    await page.getByRole('button', { name: 'Delete it' }).click();
    await page.locator('[data-kind="service"]').first().waitFor();
    assert.equal(kubectl('get service shop --ignore-not-found -o name'), '');
    await page.locator('[data-kind="service"][data-key="default/shop"]').waitFor({ state: 'detached' });
  });

  await check('traffic thickens lines, and refused packets mark a Service', async () => {
    await open('#/');
    await page.locator('[data-edge^="default/web>"].busy').first().waitFor({ state: 'attached' });
    await page.locator('[data-key="default/nobody"] [data-refused]').waitFor();
    await open('#/flows?service=default%2Fnobody&dropped=1');
    await page.locator('[data-flow="reject"]', { hasText: 'default/asker' }).first().waitFor();
    await open('#/');
  });

  await check('a label selector narrows the map', async () => {
    await page.getByLabel('Labels').fill('app=web');
    await page.locator('[data-kind="row"][data-key="default/client"]').waitFor({ state: 'detached' });
    await page.locator('[data-kind="row"][data-key="default/web-1"]').waitFor();
    await page.getByLabel('Labels').fill('');
  });

  await check('every page has one heading for it, names for its controls, and keeps the keyboard in sight', async () => {
    for (const hash of ['#/', '#/table', '#/services/default/web', '#/pods/default/client', '#/flows', '#/explain', '#/edit']) {
      await open(hash);
      await page.locator('main > *').first().waitFor();
      assert.deepEqual(await page.evaluate(faults), [], hash);
    }
  });

  await check('another site gets nothing, and a form of this one changes nothing', async () => {
    const api = `${origin}/ui/v1/api/api/v1/namespaces`;
    const body = { kind: 'Namespace', apiVersion: 'v1', metadata: { name: 'made-by-a-form' } };
    const status = async (headers) => (await context.request.post(api, { data: body, headers })).status();
    assert.equal(await status({}), 403);
    assert.equal(await status({ 'x-vipyard-ui': '1', origin: 'http://127.0.0.1:3000' }), 403);
    assert.equal(await status({ 'x-vipyard-ui': '1', origin, 'sec-fetch-site': 'same-site' }), 403);
    assert.equal(kubectl('get namespace made-by-a-form --ignore-not-found -o name'), '');
    const answer = await context.request.get(api);
    assert.match(answer.headers()['content-security-policy'], /^default-src 'none'; sandbox/);
  });

  await check('nothing complained and nothing was asked elsewhere', () => assert.deepEqual(complaints, []));
} finally {
  await browser.close();
}

/** The browser logs every answer that is no success; those that were wanted are no complaints. */
function expectErrors(complaints) {
  const wanted = complaints.filter((text) => !/status of 4(00|04|09|22)/.test(text));
  complaints.splice(0, complaints.length, ...wanted);
}

/** Runs in the page: what a screen reader or a keyboard would stumble over. */
function faults() {
  const found = [];
  const named = (element) =>
    element.getAttribute('aria-label') || element.getAttribute('aria-labelledby') || element.labels?.length > 0 || element.textContent.trim() || element.title;
  for (const element of document.querySelectorAll('a, button, input, select, textarea, [role="button"]')) {
    if (!named(element)) found.push(`without a name: ${element.outerHTML.slice(0, 120)}`);
  }
  const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
  for (const id of ids.filter((id, index) => ids.indexOf(id) !== index)) found.push(`twice: #${id}`);
  for (const element of document.querySelectorAll('[aria-labelledby], [aria-describedby]')) {
    for (const id of `${element.getAttribute('aria-labelledby') ?? ''} ${element.getAttribute('aria-describedby') ?? ''}`.trim().split(/\s+/)) {
      if (!document.getElementById(id)) found.push(`names nothing: ${id}`);
    }
  }
  if (document.querySelectorAll('main').length !== 1) found.push('not one main');
  if (document.querySelectorAll('h1').length !== 1) found.push('not one h1');
  for (const table of document.querySelectorAll('table')) if (!table.querySelector('th[scope]')) found.push('a table without headings');
  if (document.querySelector('[tabindex]:not([tabindex="0"], [tabindex="-1"])')) found.push('a tabindex out of order');
  return found;
}
