// What the browser tests have in common: a browser without a network of its own, named checks, and a list of complaints.

import { createRequire } from 'node:module';

const { chromium } = createRequire(new URL('../../web/package.json', import.meta.url))('playwright-core');

export const LIMIT = 15_000;

export async function launch(executablePath) {
  return chromium.launch({
    executablePath,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

/** Of the page that is visited. */
let heard = [];

/** A page that notes what nobody should have to see: errors, dialogs, requests to somewhere else. */
export async function visit(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 960 }, colorScheme: 'light', ...options });
  context.setDefaultTimeout(LIMIT);
  const page = await context.newPage();
  const complaints = (heard = []);
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('dialog', (dialog) => (complaints.push(`dialog: ${dialog.message()}`), dialog.dismiss()));
  const { origin } = new URL(url);
  page.on('request', (request) => {
    const asked = new URL(request.url());
    if (asked.origin !== origin && asked.protocol !== 'data:') complaints.push(`asked elsewhere: ${asked.origin}`);
  });
  return { context, page, complaints, origin };
}

export async function check(what, action) {
  try {
    await action();
    console.log(`ok      ${what}`);
  } catch (error) {
    console.log(`FAILED  ${what}`, ...heard);
    throw error;
  }
}
