import { describe, expect, test } from 'vitest';

import { ClusterMap } from './cluster-map';
import { narrows, select, type Filter } from './filter';
import type { PodView, ServiceView } from './types';

const ALL: Filter = { text: '', namespace: '', labels: '', system: false };

function map(): ClusterMap {
  const service = (name: string, labels: Record<string, string>, pods: string[]): ServiceView => ({
    namespace: 'a', name, type: 'ClusterIP', labels, endpoints: pods.map((pod) => ({ pod: `a/${pod}`, ip: '10.0.0.1' })),
  });
  const pod = (name: string, labels: Record<string, string>): PodView => ({
    namespace: 'a', name, uid: name, phase: 'Running', ready: true, terminating: false, status: 'Running', restarts: 0, labels,
  });
  const known = new ClusterMap();
  known.snapshot({
    revision: 0, version: '', nodes: [],
    services: [service('web', { app: 'web' }, ['web-1']), service('db', { app: 'db', tier: 'back' }, ['db-1'])],
    pods: [pod('web-1', { app: 'web', canary: 'yes' }), pod('db-1', { app: 'db' }), pod('lone', {})],
  });
  return known;
}

describe('a label selector', () => {
  test.each([
    ['', ['a/db', 'a/web'], ['a/db-1', 'a/lone', 'a/web-1']],
    ['app=web', ['a/web'], ['a/web-1']],
    ['app==web', ['a/web'], ['a/web-1']],
    ['app!=web', ['a/db'], ['a/db-1', 'a/lone']],
    ['canary', ['a/web'], ['a/web-1']],
    ['app=db, tier=back', ['a/db'], ['a/db-1']],
    ['!app', [], ['a/lone']],
    ['constructor', [], []],
    ['app=', [], []],
    ['!', ['a/db', 'a/web'], ['a/db-1', 'a/lone', 'a/web-1']],
  ])('%o lets through what matches, and what that is joined to', (labels, services, pods) => {
    const found = select(map(), { ...ALL, labels });
    expect([[...found.services].sort(), [...found.pods].sort()]).toEqual([services, pods]);
  });

  test('counts as narrowing the map', () => {
    expect([narrows(ALL), narrows({ ...ALL, labels: ' ' }), narrows({ ...ALL, labels: 'a' })]).toEqual([false, false, true]);
  });
});
