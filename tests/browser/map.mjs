// Opens the dashboard's map in a real browser and checks what a visitor would see.
//
//   node tests/browser/map.mjs --url URL_WITH_TOKEN [--service NS/NAME] [--live COMMAND] [--text TEXT]
//                              [--chromium /usr/bin/chromium]
//
// --service  a Service that must be shown with lines; without it any will do
// --live     a shell command that changes that Service's endpoints; without it the cluster must change by itself
// --text     text that must be on the page as text, whatever markup it looks like
//
// playwright-core comes from web/ (`npm --prefix web ci`). Exit status: 0 fine, 1 a check failed.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { parseArgs } from 'node:util';

import { check, launch, LIMIT, visit } from './visit.mjs';

const { values: options } = parseArgs({
  options: {
    url: { type: 'string' },
    service: { type: 'string' },
    live: { type: 'string' },
    text: { type: 'string' },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
  },
});
assert(options.url, 'say --url with the address that `vipyard up` prints, token included');
/** What a Service with endpoints shows: how many are ready, of how many. */
const BACKED = /\d\/[1-9]/;

const browser = await launch(options.chromium);
try {
  const { context, page, complaints, origin } = await visit(browser, options.url);

  await check('the token is refused when it is wrong or missing', async () => {
    const stranger = await browser.newContext();
    for (const address of [origin, `${origin}/?token=wrong`, `${origin}/ui/v1/map`]) {
      assert.equal((await stranger.request.get(address)).status(), 401, address);
    }
    await stranger.close();
  });

  await check('the page loads and the token leaves the address', async () => {
    await page.goto(options.url);
    await page.locator('[data-connection="live"]').waitFor();
    assert.equal(page.url().replace(/#.*/, ''), `${origin}/`);
    const [cookie] = await context.cookies();
    assert.equal(cookie.httpOnly, true);
    assert.equal(cookie.sameSite, 'Strict');
  });

  const ours = options.service ? `[data-edge^=${JSON.stringify(`${options.service}>`)}]` : '[data-edge]';
  await check('a Service is shown with lines to its Pods', async () => {
    const card = options.service ? `[data-kind="service"][data-key=${JSON.stringify(options.service)}]` : '[data-kind="service"]';
    await page.locator(card).first().waitFor();
    await page.locator(ours).first().waitFor({ state: 'attached' });
    assert((await page.locator('[data-kind="row"]').count()) > 0);
  });

  await check('pointing at a Service brings out its lines, Escape takes the details away', async () => {
    const service = page.locator('[data-kind="service"]', { hasText: BACKED }).first();
    await service.hover();
    await page.locator('svg .bright path').first().waitFor({ state: 'attached' });
    await service.click();
    await page.locator('aside').waitFor();
    await page.keyboard.press('Escape');
    await page.locator('aside').waitFor({ state: 'detached' });
    await page.mouse.move(2, 2);
  });

  await check('arrow keys go through the Services and over to their Pods', async () => {
    const focused = () => page.evaluate(() => ({ ...document.activeElement.dataset }));
    await page.locator('[data-kind="service"][tabindex="0"]').focus();
    const first = await focused();
    await page.keyboard.press('ArrowDown');
    if ((await page.locator('[data-kind="service"]').count()) > 1) assert.notDeepEqual(await focused(), first);
    await page.locator('[data-kind="service"]', { hasText: BACKED }).first().focus();
    await page.keyboard.press('ArrowRight');
    assert.equal((await focused()).kind, 'row');
    await page.evaluate(() => document.activeElement.blur());
  });

  await check('search narrows the map and an empty result says so', async () => {
    await page.keyboard.press('/');
    await page.keyboard.type('no-such-thing');
    await page.locator('[data-empty]').waitFor();
    await page.keyboard.press('Control+A');
    await page.keyboard.press('Delete');
    await page.locator(ours).first().waitFor({ state: 'attached' });
    await page.evaluate(() => document.activeElement.blur());
  });

  await check('a change of the cluster arrives without a reload', async () => {
    const lines = () => page.locator(ours).evaluateAll((all) => all.map((line) => [line.dataset.edge, line.getAttribute('class')]));
    const before = JSON.stringify(await lines());
    const change = options.live ? run(options.live) : Promise.resolve();
    const started = Date.now();
    while (JSON.stringify(await lines()) === before) {
      assert(Date.now() - started < LIMIT, 'no line changed');
      await page.waitForTimeout(50);
    }
    await change;
  });

  if (options.text) {
    await check('hostile text is shown as text', async () => {
      await page.getByText(options.text, { exact: false }).first().waitFor();
      assert.equal(await page.title(), 'Vipyard');
      assert.equal(await page.locator('#app img, #app script').count(), 0);
    });
  }

  await check('the table says the same', async () => {
    await page.getByRole('button', { name: 'Table', exact: true }).click();
    assert((await page.getByRole('row').count()) > 1);
    await page.getByRole('button', { name: 'Map', exact: true }).click();
    await page.locator(ours).first().waitFor({ state: 'attached' });
  });

  await check('a lost connection is shown and comes back by itself', async () => {
    const before = complaints.length;
    await page.route('**/ui/v1/map/stream', (route) => route.abort());
    await page.reload();
    await page.locator('[data-connection="lost"]').waitFor();
    await page.unroute('**/ui/v1/map/stream');
    await page.locator('[data-connection="live"]').waitFor();
    await page.locator(ours).first().waitFor({ state: 'attached' });
    complaints.length = before; // the browser's own words about the request that failed
  });

  await check('nothing complained and nothing was asked elsewhere', () => assert.deepEqual(complaints, []));
} finally {
  await browser.close();
}

function run(command) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, { shell: true, stdio: 'inherit' });
    child.on('error', reject);
    child.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`${command}: exit status ${code}`))));
  });
}
