import { describe, expect, test } from 'vitest';

import { ClusterMap } from './cluster-map';
import fixture from './fixture.json';
import type { PodView, Snapshot } from './types';

// Also checks the types: the same file is what the server's tests say it sends.
const SNAPSHOT: Snapshot = fixture;

function known(): ClusterMap {
  const map = new ClusterMap();
  map.snapshot(structuredClone(SNAPSHOT));
  return map;
}

describe('the map as a viewer knows it', () => {
  test('holds what the snapshot says, by key', () => {
    const map = known();
    expect([...map.services.keys()]).toEqual(['default/peers', 'default/web', 'shop/front', 'shop/mail']);
    expect([...map.pods.keys()]).toEqual(['default/web-1', 'default/web-2', 'shop/waiting']);
    expect(map.nodes.get('n1')?.zone).toBe('a');
    expect([map.revision, map.version, map.known]).toEqual([1, '1.2.3', true]);
  });

  test('knows nothing before the first snapshot and takes no patch', () => {
    const map = new ClusterMap();
    expect(map.known).toBe(false);
    expect(map.patch({ revision: 1 })).toBe(false);
  });

  test('a patch changes and removes what it names and nothing else', () => {
    const map = known();
    const web = map.services.get('default/web');
    const pod: PodView = { ...SNAPSHOT.pods[0]!, name: 'web-3' };
    expect(map.patch({ revision: 2, pods: { changed: [pod], removed: ['default/web-2'] }, nodes: { removed: ['n1'] } })).toBe(true);
    expect([...map.pods.keys()]).toEqual(['default/web-1', 'shop/waiting', 'default/web-3']);
    expect(map.nodes.size).toBe(0);
    expect(map.services.get('default/web')).toBe(web);
  });

  test('a patch of endpoints touches those and makes a new Service of the old one', () => {
    const map = known();
    const before = map.services.get('default/web');
    const [address, first, second] = before!.endpoints!;
    const going = { pod: 'default/web-1', ip: '10.244.1.2', node: 'n1', notReady: true, terminating: true };
    const added = { pod: 'default/web-3', ip: '10.244.1.4', node: 'n1' };
    const delta = { service: 'default/web', changed: [going, added], removed: [{ pod: 'default/web-2', ip: '10.244.1.3' }, { ip: '192.0.2.7' }] };
    expect([address!.ip, first!.pod, second!.pod]).toEqual(['192.0.2.7', 'default/web-1', 'default/web-2']);
    expect(map.patch({ revision: 2, endpoints: [delta, { service: 'default/none', changed: [added] }] })).toBe(true);
    const after = map.services.get('default/web');
    expect(after?.endpoints).toEqual([going, added]);
    expect(after).not.toBe(before);
    expect({ ...after, endpoints: [] }).toEqual({ ...before, endpoints: [] });
    expect(map.services.has('default/none')).toBe(false);
  });

  test('a patch after a gap is refused and changes nothing', () => {
    const map = known();
    expect(map.patch({ revision: 3, pods: { removed: ['default/web-1'] } })).toBe(false);
    expect(map.patch({ revision: 1, pods: { removed: ['default/web-1'] } })).toBe(false);
    expect(map.pods.has('default/web-1')).toBe(true);
    expect(map.revision).toBe(1);
  });

  test('a new snapshot replaces everything', () => {
    const map = known();
    map.snapshot({ revision: 40, version: '2', services: [], pods: [], nodes: [] });
    expect([map.revision, map.services.size, map.pods.size, map.nodes.size]).toEqual([40, 0, 0, 0]);
  });
});
