import { expect, test } from 'vitest';

import { Slots } from './slots';

test('a new row takes the place of one that left, and nothing else moves', () => {
  const slots = new Slots();
  expect(slots.arrange('n1', ['a', 'b', 'c'])).toEqual(['a', 'b', 'c']);
  expect(slots.arrange('n1', ['a', 'c'])).toEqual(['a', null, 'c']);
  expect(slots.arrange('n1', ['a', 'b2', 'c'])).toEqual(['a', 'b2', 'c']);
  expect(slots.arrange('n1', ['0', 'a', 'b2', 'c'])).toEqual(['a', 'b2', 'c', '0']);
});

test('the same rows again stay in the same slots', () => {
  const slots = new Slots();
  slots.arrange('n1', ['a', 'b', 'c']);
  slots.arrange('n1', ['a', 'c']);
  expect(slots.arrange('n1', ['a', 'c'])).toEqual(['a', null, 'c']);
});

test('gaps at the end go at once, a group with more gaps than rows closes up', () => {
  const slots = new Slots();
  slots.arrange('n1', ['a', 'b', 'c', 'd']);
  expect(slots.arrange('n1', ['a', 'b'])).toEqual(['a', 'b']);
  slots.arrange('n1', ['a', 'b', 'c', 'd', 'e']);
  expect(slots.arrange('n1', ['c', 'e'])).toEqual(['c', 'e']);
  expect(slots.arrange('n1', [])).toEqual([]);
});

test('groups are apart, and another filter starts over in order', () => {
  const slots = new Slots();
  slots.scope('all');
  slots.arrange('n1', ['b']);
  expect(slots.arrange('n2', ['a'])).toEqual(['a']);
  expect(slots.arrange('n1', ['a', 'b'])).toEqual(['b', 'a']);
  slots.scope('all');
  expect(slots.arrange('n1', ['a', 'b'])).toEqual(['b', 'a']);
  slots.scope('other');
  expect(slots.arrange('n1', ['a', 'b'])).toEqual(['a', 'b']);
});
