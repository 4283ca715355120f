// Measures the map of a large cluster in a real browser: first paint, the map's first lines, and frames while it changes.
//
//   node tests/browser/scale.mjs --url URL_WITH_TOKEN [--loads 5] [--chromium /usr/bin/chromium]
//
// Exit status: 0 within the limits. The best of several loads counts: a machine that is busy is not the page's fault.

import assert from 'node:assert/strict';
import { parseArgs } from 'node:util';

import { check, launch, visit } from './visit.mjs';

const { values: options } = parseArgs({
  options: { url: { type: 'string' }, loads: { type: 'string', default: '5' }, chromium: { type: 'string', default: '/usr/bin/chromium' } },
});
const FIRST_PAINT_MS = 300;
const FRAME_MS = 100;

const browser = await launch(options.chromium);
try {
  const { page, complaints, origin } = await visit(browser, options.url);
  await page.addInitScript(() => {
    globalThis.marks = {};
    new MutationObserver((_, observer) => {
      if (!document.querySelector('[data-lines]:not([data-lines="0"])')) return;
      marks.map = performance.now();
      observer.disconnect();
    }).observe(document, { childList: true, subtree: true });
  });
  await page.goto(options.url);
  const best = { paint: Infinity, map: Infinity };
  for (let load = 0; load < Number(options.loads); load += 1) {
    await page.goto('about:blank');
    await page.goto(`${origin}/`);
    await page.waitForFunction(() => marks.map && performance.getEntriesByName('first-contentful-paint').length > 0);
    const { paint, map } = await page.evaluate(() => ({ paint: performance.getEntriesByName('first-contentful-paint')[0].startTime, map: marks.map }));
    best.paint = Math.min(best.paint, paint);
    best.map = Math.min(best.map, map);
  }
  const shown = await page.evaluate(() => ({
    services: Number(document.querySelector('[data-count="services"]').textContent),
    endpoints: Number(document.querySelector('[data-lines]').dataset.lines),
    elements: document.querySelectorAll('*').length,
  }));
  // Frames while Pods are replaced and traffic is told, and while the page is scrolled through.
  const frames = await page.evaluate(async () => {
    const times = [];
    const from = performance.now();
    let last = from;
    while (last - from < 6000) {
      await new Promise((next) => requestAnimationFrame(next));
      const now = performance.now();
      times.push(now - last);
      last = now;
      if (now - from > 3000) window.scrollBy(0, 120);
    }
    times.sort((a, b) => a - b);
    const at = (share) => times[Math.min(times.length - 1, Math.floor(times.length * share))];
    return { count: times.length, median: at(0.5), p95: at(0.95), longest: times.at(-1) };
  });
  const ms = (time) => `${Math.round(time)} ms`;
  console.log(`        ${shown.services} Services, ${shown.endpoints} lines, ${shown.elements} elements`);
  console.log(`        first paint ${ms(best.paint)}, the map ${ms(best.map)}; frames: median ${ms(frames.median)}, 95% ${ms(frames.p95)}, longest ${ms(frames.longest)}`);

  await check('the made-up cluster is shown whole', () => assert(shown.services >= 1000 && shown.endpoints >= 10_000));
  await check(`first paint within ${FIRST_PAINT_MS} ms`, () => assert(best.paint < FIRST_PAINT_MS, ms(best.paint)));
  await check(`half of the frames within ${FRAME_MS} ms while it changes`, () => assert(frames.median < FRAME_MS, ms(frames.median)));
  await check('only what is in sight has elements', () => assert(shown.elements < 6000));
  await check('nothing complained', () => assert.deepEqual(complaints, []));
} finally {
  await browser.close();
}
