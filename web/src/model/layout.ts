/**
 * Where everything stands, in pixels from the top, computed from data alone: rows have fixed heights, so lines need no
 * measuring and rows out of sight need no elements.
 */
import type { ClusterMap } from './cluster-map';
import { narrows, select, type Filter } from './filter';
import { Slots } from './slots';
import { endpointState, podState, type State } from './state';
import type { NodeView, PodView, ServiceView } from './types';

export const SERVICE = { height: 94, gap: 12 };
export const POD = { height: 35 };
export const GROUP = { head: 46, foot: 8, gap: 16 };

export interface ServiceRow {
  key: string;
  view: ServiceView;
  y: number;
  targets: Target[];
  ready: number;
}

/** What a Service's line leads to. */
export interface Target {
  /** Key of a Pod row or an address row. */
  row: string;
  state: State;
  ips: string[];
}

/** A row on the right: a Pod, or an address that belongs to none. */
export interface PodRow {
  key: string;
  y: number;
  state: State;
  pod?: PodView;
  address?: string;
}

export interface Group {
  key: string;
  kind: 'node' | 'unscheduled' | 'addresses';
  node?: NodeView;
  y: number;
  height: number;
  rows: PodRow[];
}

export interface Edge {
  key: string;
  service: string;
  row: string;
  state: State;
  y1: number;
  y2: number;
}

export interface Layout {
  services: ServiceRow[];
  groups: Group[];
  edges: Edge[];
  height: number;
  hiddenSystem: number;
  /** Whether names need their namespace to tell them apart. */
  mixed: boolean;
}

const UNSCHEDULED = 'unscheduled';
const ADDRESSES = 'addresses';

export function layout(map: ClusterMap, filter: Filter, slots: Slots): Layout {
  slots.scope(JSON.stringify(filter));
  const selection = select(map, filter);

  const services: ServiceRow[] = [];
  const addresses = new Map<string, PodRow>();
  for (const key of [...selection.services].sort()) {
    const view = map.services.get(key);
    if (!view) continue;
    const targets = targetsOf(view, map, selection.pods);
    for (const target of targets) {
      if (target.row.startsWith('ip:')) {
        const address = target.row.slice(3);
        addresses.set(target.row, { key: target.row, y: 0, state: target.state, address });
      }
    }
    const y = services.length * (SERVICE.height + SERVICE.gap);
    services.push({ key, view, y, targets, ready: targets.filter((target) => target.state === 'ready').length });
  }

  const groups: Group[] = [];
  const rowY = new Map<string, number>();
  let top = 0;
  const place = (key: string, kind: Group['kind'], rows: Map<string, PodRow>, node?: NodeView) => {
    const order = slots.arrange(key, [...rows.keys()].sort());
    const placed: PodRow[] = [];
    order.forEach((rowKey, index) => {
      const row = rowKey === null ? undefined : rows.get(rowKey);
      if (!row) return;
      row.y = top + GROUP.head + index * POD.height;
      rowY.set(row.key, row.y + POD.height / 2);
      placed.push(row);
    });
    const height = GROUP.head + Math.max(order.length, 1) * POD.height + GROUP.foot;
    groups.push({ key, kind, y: top, height, rows: placed, ...(node && { node }) });
    top += height + GROUP.gap;
  };

  const byNode = new Map<string, Map<string, PodRow>>();
  for (const key of selection.pods) {
    const pod = map.pods.get(key);
    if (!pod) continue;
    const group = pod.node === undefined ? UNSCHEDULED : `node:${pod.node}`;
    let rows = byNode.get(group);
    if (!rows) byNode.set(group, (rows = new Map()));
    rows.set(key, { key, y: 0, state: podState(pod), pod });
  }
  const narrowed = narrows(filter);
  for (const node of nodesOf(map, byNode)) {
    const rows = byNode.get(`node:${node.name}`) ?? new Map<string, PodRow>();
    if (rows.size > 0 || !narrowed) place(`node:${node.name}`, 'node', rows, node);
  }
  const unscheduled = byNode.get(UNSCHEDULED);
  if (unscheduled) place(UNSCHEDULED, 'unscheduled', unscheduled);
  if (addresses.size > 0) place(ADDRESSES, 'addresses', addresses);

  const edges: Edge[] = [];
  for (const { key, y, targets } of services) {
    const ends = targets.flatMap((target) => {
      const y2 = rowY.get(target.row);
      return y2 === undefined ? [] : [{ target, y2 }];
    });
    ends.sort((a, b) => a.y2 - b.y2);
    // Lines leave a Service in the order in which they arrive, so that they cross as little as they must.
    const step = Math.min(8, (SERVICE.height - 36) / ends.length);
    ends.forEach(({ target, y2 }, index) => {
      const y1 = y + SERVICE.height / 2 + (index - (ends.length - 1) / 2) * step;
      edges.push({ key: `${key}>${target.row}`, service: key, row: target.row, state: target.state, y1, y2 });
    });
  }

  const bottom = services.length * (SERVICE.height + SERVICE.gap);
  return {
    services,
    groups,
    edges,
    height: Math.max(bottom, top),
    hiddenSystem: selection.hiddenSystem,
    mixed: isMixed(services, groups),
  };
}

function isMixed(services: ServiceRow[], groups: Group[]): boolean {
  const namespaces = new Set(services.map((row) => row.view.namespace));
  for (const group of groups) {
    for (const row of group.rows) if (row.pod) namespaces.add(row.pod.namespace);
  }
  return namespaces.size > 1;
}

/** One target per Pod, whatever the number of its addresses; a ready address wins over one that isn't. */
function targetsOf(service: ServiceView, map: ClusterMap, shownPods: Set<string>): Target[] {
  const targets = new Map<string, Target>();
  for (const endpoint of service.endpoints ?? []) {
    const pod = endpoint.pod === undefined ? undefined : map.pods.get(endpoint.pod);
    if (endpoint.pod !== undefined && !shownPods.has(endpoint.pod)) continue;
    const row = endpoint.pod ?? `ip:${endpoint.ip}`;
    const state = endpointState(endpoint, pod);
    const known = targets.get(row);
    if (known) {
      known.ips.push(endpoint.ip);
      if (state === 'ready') known.state = state;
    } else {
      targets.set(row, { row, state, ips: [endpoint.ip] });
    }
  }
  return [...targets.values()];
}

/** All nodes by zone and name, with those that Pods name but the cluster doesn't have. */
function nodesOf(map: ClusterMap, byNode: Map<string, unknown>): NodeView[] {
  const nodes = [...map.nodes.values()];
  for (const key of byNode.keys()) {
    const name = key.slice('node:'.length);
    if (key !== UNSCHEDULED && !map.nodes.has(name)) nodes.push({ name, ready: false });
  }
  const rank = (node: NodeView) => node.zone ?? '\uffff';
  return nodes.sort((a, b) => compare(rank(a), rank(b)) || compare(a.name, b.name));
}

function compare(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}
