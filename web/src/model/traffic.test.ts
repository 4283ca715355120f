import { expect, test } from 'vitest';

import { bytes, Rates, thickness } from './traffic';

test('rates are per second, whatever the time between two readings', () => {
  const rates = new Rates({ milliseconds: 500, passed: [['a/web', 'a/web-1', 100], ['a/web', 'ip:1.2.3.4', 50], ['a/web-2', 'a/x', 7]], refused: [['a/web', 3]] });
  expect(rates.lines.get('a/web>a/web-1')).toBe(200);
  expect(rates.of('a/web')).toBe(300);
  expect(rates.refused.get('a/web')).toBe(6);
  expect(new Rates().lines.size).toBe(0);
});

test('more traffic is a thicker line, and never one that hides the others', () => {
  const widths = [0, 1, 1e3, 1e6, 1e9, 1e15].map(thickness);
  expect(widths).toEqual([...widths].sort((a, b) => a - b));
  expect(widths[0]).toBeLessThan(widths[1]!);
  expect(widths.at(-1)).toBeLessThan(9);
});

test.each([[0, '0 B'], [999, '999 B'], [1000, '1.0 kB'], [12_345, '12 kB'], [999_600, '1.0 MB'], [3.2e9, '3.2 GB'], [1e18, '1000000 TB']])('%d bytes are %s', (count, text) => {
  expect(bytes(count)).toBe(text);
});
