// Pictures of every page, light and dark.
//
//   node tests/browser/pictures.mjs --url URL_WITH_TOKEN --shots FOLDER [--chromium /usr/bin/chromium]
//
// Wants the objects of examples/ and tests/browser/tasks.yaml.

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { launch, visit } from './visit.mjs';

const { values: options } = parseArgs({
  options: { url: { type: 'string' }, shots: { type: 'string' }, chromium: { type: 'string', default: '/usr/bin/chromium' } },
});
const PAGES = [
  ['map', '#/', '[data-edge].busy'],
  ['table', '#/table', 'table'],
  ['service', '#/services/default/shop', '[data-code]'],
  ['pod', '#/pods/default/web-1', '[data-container]'],
  ['flows', '#/flows?service=default%2Fweb', '[data-flow="end"] >> nth=5'],
  ['explain', '#/explain?from=pod%2Fdefault%2Fclient&to=web%3A80', '[data-step="verdict"]'],
  ['apply', '#/edit', '[data-line]'],
];
const BROKEN = 'apiVersion: v1\nkind: Service\nmetadata:\n  name: broken\nspec:\n  selector:\n    app: web\n  ports:\n    - name: http\n      port: 99999\n      targetPort: http\n';

await mkdir(options.shots, { recursive: true });
const browser = await launch(options.chromium);
try {
  for (const colorScheme of ['light', 'dark']) {
    const { page, origin, context } = await visit(browser, options.url, { viewport: { width: 1280, height: 800 }, colorScheme, reducedMotion: 'reduce' });
    await page.goto(options.url);
    await page.locator('[data-connection="live"]').waitFor();
    for (const [name, hash, sign] of PAGES) {
      await page.goto(`${origin}/${hash}`);
      if (name === 'apply') {
        await page.getByRole('textbox', { name: 'YAML' }).fill(BROKEN);
        await page.getByRole('button', { name: 'Apply', exact: true }).click();
      }
      await page.locator(sign).first().waitFor({ state: 'attached' });
      if (name === 'flows') await page.getByRole('button', { name: 'Pause' }).click();
      await page.mouse.move(2, 2);
      await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
      await page.screenshot({ path: join(options.shots, `${name}-${colorScheme}.png`) });
    }
    await context.close();
  }
} finally {
  await browser.close();
}
