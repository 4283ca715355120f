import { expect, test } from 'vitest';

import { href, hrefOf, parse, type Route } from './route';

test.each<Route>([
  { page: 'map' },
  { page: 'table' },
  { page: 'service', namespace: 'shop', name: 'web' },
  { page: 'pod', namespace: 'shop', name: '<img src=x onerror="alert(1)">/../#?&%' },
  { page: 'flows', service: 'shop/web', pod: '', dropped: true },
  { page: 'explain', from: 'pod/a/client', to: 'web.a:80', protocol: 'udp', node: 'n2' },
  { page: 'edit', path: '/api/v1/namespaces/a/services/web' },
])('%o comes back from its address', (route) => {
  expect(parse(href(route))).toEqual(route);
});

test('an address that says nothing known is the map', () => {
  for (const hash of ['', '#', '#/', '#/services', '#/services/shop', '#/none/a/b', '#/services/%/']) expect(parse(hash)).toEqual({ page: 'map' });
  expect(parse('#/pods/a/%E0%A4%A')).toEqual({ page: 'pod', namespace: 'a', name: '%E0%A4%A' });
});

test('keys lead to their pages', () => {
  expect(hrefOf('service', 'shop/web')).toBe('#/services/shop/web');
});
