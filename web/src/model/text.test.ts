import { expect, test } from 'vitest';

import { ago, visible } from './text';

test('what would be invisible or turn the text around is shown', () => {
  expect(visible('\u001b[31mred\u0007\u0000\r\n\tend\u007f')).toBe('␛[31mred␇␀␍\n\tend␡');
  expect(visible('safe\u202egnp.exe')).toBe('safe\\u{202e}gnp.exe');
  expect(visible('a\u200bb\u0085')).toBe('a\\u{200b}b\\u{85}');
  expect(visible('<b>ä 日本 🙂</b>')).toBe('<b>ä 日本 🙂</b>');
});

test('time is told in one unit', () => {
  const now = Date.parse('2026-01-02T00:00:00Z');
  const told = ['2026-01-01T23:59:59Z', '2026-01-01T23:50:00Z', '2026-01-01T20:00:00Z', '2025-12-20T00:00:00Z', '2026-01-03T00:00:00Z', 'none'];
  expect(told.map((time) => ago(time, now))).toEqual(['1 s', '10 min', '4 h', '13 d', '0 s', '']);
});
