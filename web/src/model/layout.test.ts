import { beforeEach, describe, expect, test } from 'vitest';

import { ClusterMap } from './cluster-map';
import fixture from './fixture.json';
import { light } from './focus';
import { GROUP, layout, POD, SERVICE, type Layout } from './layout';
import { Slots } from './slots';
import type { EndpointView, PodView, ServiceView } from './types';

const ALL = { text: '', namespace: '', labels: '', system: false };

let map: ClusterMap;
let slots: Slots;
beforeEach(() => {
  map = new ClusterMap();
  map.snapshot(structuredClone(fixture));
  slots = new Slots();
});

function service(namespace: string, name: string, endpoints: EndpointView[] = []): ServiceView {
  return { namespace, name, type: 'ClusterIP', endpoints };
}
function pod(namespace: string, name: string, node: string): PodView {
  return { namespace, name, node, uid: name, phase: 'Running', ready: true, terminating: false, status: 'Running', restarts: 0 };
}
function change(services: ServiceView[], pods: PodView[] = []): void {
  map.patch({ revision: map.revision + 1, services: { changed: services }, pods: { changed: pods } });
}
const shown = (l: Layout) => l.services.map((row) => row.key);
const rows = (l: Layout) => l.groups.map((group) => [group.key, ...group.rows.map((row) => row.key)]);

describe('layout', () => {
  test('groups Pods by node, then those without a node, then addresses without a Pod', () => {
    expect(rows(layout(map, ALL, slots))).toEqual([
      ['node:n1', 'default/web-1', 'default/web-2'],
      ['unscheduled', 'shop/waiting'],
      ['addresses', 'ip:192.0.2.7'],
    ]);
  });

  test('orders nodes by zone and number, and keeps those that only Pods name', () => {
    const node = (name: string, zone: string) => ({ name, zone, ready: true });
    map.patch({ revision: 2, nodes: { changed: [node('n10', 'a'), node('n2', 'a'), node('n3', 'b')] } });
    change([], [pod('default', 'lost', 'gone')]);
    const order = layout(map, ALL, slots).groups.map((group) => group.node?.name ?? group.kind);
    expect(order).toEqual(['n1', 'n2', 'n10', 'n3', 'gone', 'unscheduled', 'addresses']);
  });

  test('a line goes from each Service to each of its endpoints, in the state of the endpoint', () => {
    const found = layout(map, ALL, slots).edges.map((edge) => [edge.key, edge.state]);
    expect(found).toEqual([
      ['default/web>default/web-1', 'ready'],
      ['default/web>default/web-2', 'failing'],
      ['default/web>ip:192.0.2.7', 'ready'],
    ]);
  });

  test('a line ends in the middle of its row and leaves within its Service', () => {
    const made = layout(map, ALL, slots);
    const web = made.services.find((row) => row.key === 'default/web')!;
    expect(made.edges[1]!.y2).toBe(GROUP.head + POD.height + POD.height / 2);
    for (const edge of made.edges) {
      expect(edge.y1).toBeGreaterThan(web.y);
      expect(edge.y1).toBeLessThan(web.y + SERVICE.height);
    }
  });

  test('a terminating endpoint is shown as such, two addresses of one Pod are one line', () => {
    const endpoint = { pod: 'default/web-1', notReady: true, terminating: true };
    change([service('default', 'web', [{ ...endpoint, ip: '10.244.1.2' }, { ...endpoint, ip: 'fd00::2' }])]);
    const row = layout(map, ALL, slots).services.find((row) => row.key === 'default/web')!;
    expect(row.targets).toEqual([{ row: 'default/web-1', state: 'terminating', ips: ['10.244.1.2', 'fd00::2'] }]);
    expect(row.ready).toBe(0);
  });

  test('a replaced Pod takes the place of the old one and no other row moves', () => {
    const before = layout(map, ALL, slots);
    map.patch({ revision: 2, pods: { removed: ['default/web-1'], changed: [pod('default', 'web-9', 'n1')] } });
    const after = layout(map, ALL, slots);
    const y = (l: Layout, key: string) => l.groups[0]!.rows.find((row) => row.key === key)?.y;
    expect(y(after, 'default/web-9')).toBe(y(before, 'default/web-1'));
    expect(y(after, 'default/web-2')).toBe(y(before, 'default/web-2'));
  });

  test('says whether names need their namespace', () => {
    expect(layout(map, ALL, slots).mixed).toBe(true);
    expect(layout(map, { ...ALL, namespace: 'shop' }, slots).mixed).toBe(false);
  });
});

describe('filter', () => {
  test("hides the cluster's own Services and Pods until they are asked for", () => {
    change([service('default', 'kubernetes'), service('kube-system', 'kube-dns')], [pod('kube-system', 'dns-1', 'n1')]);
    const hidden = layout(map, ALL, slots);
    expect(hidden.hiddenSystem).toBe(2);
    expect(shown(hidden)).not.toContain('default/kubernetes');
    expect(rows(hidden).flat()).not.toContain('kube-system/dns-1');
    const all = layout(map, { ...ALL, system: true }, slots);
    expect(shown(all)).toEqual(expect.arrayContaining(['default/kubernetes', 'kube-system/kube-dns']));
    expect(shown(layout(map, { ...ALL, namespace: 'kube-system' }, slots))).toEqual(['kube-system/kube-dns']);
  });

  test('a Service that is found brings its Pods, a Pod that is found brings its Services', () => {
    expect(rows(layout(map, { ...ALL, text: '30080' }, slots))).toEqual([
      ['node:n1', 'default/web-1', 'default/web-2'],
      ['addresses', 'ip:192.0.2.7'],
    ]);
    const byPod = layout(map, { ...ALL, text: 'CrashLoop' }, slots);
    expect(shown(byPod)).toEqual(['default/web']);
    expect(byPod.edges.map((edge) => edge.row)).toEqual(['default/web-2', 'ip:192.0.2.7']);
  });

  test('words must all match, nothing found is an empty map', () => {
    expect(shown(layout(map, { ...ALL, text: 'shop  mail' }, slots))).toEqual(['shop/mail']);
    const none = layout(map, { ...ALL, text: 'nowhere' }, slots);
    expect([none.services, none.groups, none.edges, none.height]).toEqual([[], [], [], 0]);
  });
});

describe('focus', () => {
  test('lights up what belongs together, from either side', () => {
    const made = layout(map, ALL, slots);
    const fromService = light(made, { kind: 'service', key: 'default/web' })!;
    expect([...fromService.rows]).toEqual(['default/web-1', 'default/web-2', 'ip:192.0.2.7']);
    const fromPod = light(made, { kind: 'row', key: 'default/web-2' })!;
    expect([[...fromPod.services], fromPod.edges.length]).toEqual([['default/web'], 1]);
  });

  test('is nothing once its subject is gone', () => {
    const made = layout(map, ALL, slots);
    expect(light(made, { kind: 'row', key: 'default/none' })).toBeNull();
    expect(light(made, null)).toBeNull();
  });
});

test('ten thousand endpoints are laid out fast enough for live updates', () => {
  const services: ServiceView[] = [];
  const pods: PodView[] = [];
  for (let s = 0; s < 1000; s += 1) {
    const endpoints: EndpointView[] = [];
    for (let e = 0; e < 10; e += 1) {
      pods.push(pod('load', `p-${s}-${e}`, `n${e % 3}`));
      endpoints.push({ pod: `load/p-${s}-${e}`, ip: '10.244.1.1' });
    }
    services.push(service('load', `s-${s}`, endpoints));
  }
  change(services, pods);
  layout(map, ALL, slots);
  const started = performance.now();
  expect(layout(map, ALL, slots).edges.length).toBe(10_003);
  // About 30 ms once warm; quadratic work would take many seconds.
  expect(performance.now() - started).toBeLessThan(2000);
});
