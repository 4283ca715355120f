import { readdirSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';

const DIST = new URL('../dist/', import.meta.url);

function built(ending: string): { name: string; text: string }[] {
  const names = readdirSync(new URL('assets/', DIST)).filter((name) => name.endsWith(ending));
  return names.map((name) => ({ name, text: readFileSync(new URL(`assets/${name}`, DIST), 'utf8') }));
}

test('all script is under 150 KB compressed', () => {
  const scripts = built('.js');
  expect(scripts.length, 'build the page first: npm run build').toBeGreaterThan(0);
  const size = scripts.reduce((sum, { text }) => sum + gzipSync(text).length, 0);
  expect(size).toBeLessThan(150_000);
});

test('the page has no script and no style in it, and asks nobody else', () => {
  const page = readFileSync(new URL('index.html', DIST), 'utf8');
  expect(page).not.toMatch(/<style|style=|\son\w+=|<script(?![^>]*\ssrc="\/assets\/)/);
  for (const { name, text } of built('.css')) expect(text, name).not.toMatch(/url\(["']?(https?:)?\/\//);
  expect(page).not.toMatch(/(src|href)="(https?:)?\/\//);
});
