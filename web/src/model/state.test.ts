import { expect, test } from 'vitest';

import { endpointState, podState, targetOf } from './state';
import type { EndpointView, PodView } from './types';

const POD: PodView = { namespace: 'a', name: 'p', uid: 'u', phase: 'Running', ready: true, terminating: false, status: 'Running', restarts: 0 };
const ENDPOINT: EndpointView = { ip: '10.0.0.1' };

test.each([
  [{}, 'ready'],
  [{ ready: false }, 'notReady'],
  [{ ready: false, status: 'ContainerCreating' }, 'notReady'],
  [{ ready: false, status: 'CrashLoopBackOff' }, 'failing'],
  [{ ready: false, status: 'ErrImagePull' }, 'failing'],
  [{ ready: false, phase: 'Failed', status: 'Evicted' }, 'failing'],
  [{ ready: false, phase: 'Succeeded', status: 'Succeeded' }, 'notReady'],
  [{ terminating: true, status: 'Terminating' }, 'terminating'],
])('a Pod with %o is %s', (change, state) => {
  expect(podState({ ...POD, ...change })).toBe(state);
});

test("an endpoint's own conditions decide, its Pod only tells why it isn't ready", () => {
  const failing = { ...POD, ready: false, status: 'CrashLoopBackOff' };
  expect(endpointState(ENDPOINT, failing)).toBe('ready');
  expect(endpointState({ ...ENDPOINT, notReady: true }, failing)).toBe('failing');
  expect(endpointState({ ...ENDPOINT, notReady: true }, undefined)).toBe('notReady');
  expect(endpointState({ ...ENDPOINT, terminating: true }, POD)).toBe('terminating');
});

test("a port leads where its endpoints answer, else where the Service says", () => {
  const port = { name: 'http', protocol: 'TCP', port: 80, targetPort: 'web' };
  const service = { namespace: 'a', name: 's', type: 'ClusterIP', ports: [port] };
  expect(targetOf(service, port)).toBe('web');
  const targets = [{ name: 'http', protocol: 'UDP', port: 1 }, { name: 'http', protocol: 'TCP', port: 8080 }];
  expect(targetOf({ ...service, targets }, port)).toBe('8080');
});
