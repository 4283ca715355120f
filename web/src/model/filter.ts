import type { ClusterMap } from './cluster-map';
import type { PodView, ServiceView } from './types';

export interface Filter {
  text: string;
  /** Empty for all. */
  namespace: string;
  /** A label selector: `app=web,tier!=db,canary,!old`. */
  labels: string;
  /** Whether the cluster's own Services and Pods are shown too. */
  system: boolean;
}

const SYSTEM_NAMESPACES = new Set(['kube-system', 'kube-public', 'kube-node-lease']);

export function isSystem(thing: { namespace: string; name: string }): boolean {
  return SYSTEM_NAMESPACES.has(thing.namespace) || (thing.namespace === 'default' && thing.name === 'kubernetes');
}

/** The keys that the filter lets through, and what it hides as the cluster's own. */
export interface Selection {
  services: Set<string>;
  pods: Set<string>;
  hiddenSystem: number;
}

/** Text finds Services and Pods; what is found brings along what it is joined to, one step far. */
export function select(map: ClusterMap, filter: Filter): Selection {
  const services = new Set<string>();
  const pods = new Set<string>();
  let hiddenSystem = 0;
  // Whoever asks for a system namespace by name wants to see it.
  const system = filter.system || SYSTEM_NAMESPACES.has(filter.namespace);
  const wanted = selector(filter.labels);
  const inScope = (thing: { namespace: string; name: string }) =>
    (!filter.namespace || thing.namespace === filter.namespace) && (system || !isSystem(thing));
  const labelled = (thing: { labels?: Record<string, string> }) => wanted.every((term) => term(thing.labels ?? {}));
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);

  const podHits = new Set<string>();
  for (const [key, pod] of map.pods) {
    if (inScope(pod) && labelled(pod) && matches(words, () => podText(pod))) podHits.add(key);
  }
  for (const [key, service] of map.services) {
    if (!inScope(service)) {
      if (!system && isSystem(service)) hiddenSystem += 1;
      continue;
    }
    if (labelled(service) && matches(words, () => serviceText(service))) {
      services.add(key);
      for (const endpoint of service.endpoints ?? []) {
        const pod = endpoint.pod === undefined ? undefined : map.pods.get(endpoint.pod);
        if (endpoint.pod !== undefined && pod && inScope(pod)) pods.add(endpoint.pod);
      }
    } else if (service.endpoints?.some((endpoint) => endpoint.pod !== undefined && podHits.has(endpoint.pod))) {
      services.add(key);
    }
  }
  for (const key of podHits) pods.add(key);
  return { services, pods, hiddenSystem };
}

/** Whether anything beside the cluster's own is left out. */
export function narrows(filter: Filter): boolean {
  return filter.text.trim() !== '' || filter.namespace !== '' || filter.labels.trim() !== '';
}

/** The terms of a label selector; one that is not finished yet asks for nothing. */
function selector(text: string): ((labels: Record<string, string>) => boolean)[] {
  const terms = text.split(',').map((term) => term.trim()).filter(Boolean);
  return terms.map((term) => {
    const [, not, key = '', operator, value = ''] = /^(!?)\s*([^\s=!]*)\s*(==?|!=)?\s*(.*)$/.exec(term) ?? [];
    return (labels) => {
      if (!key) return true;
      const found = Object.hasOwn(labels, key) ? labels[key] : undefined;
      if (operator === '!=') return found !== value;
      if (operator) return found === value;
      return (found === undefined) === (not === '!');
    };
  });
}

export function namespaces(map: ClusterMap): string[] {
  const all = new Set<string>();
  for (const service of map.services.values()) all.add(service.namespace);
  for (const pod of map.pods.values()) all.add(pod.namespace);
  return [...all].sort();
}

function matches(words: string[], textOf: () => string): boolean {
  if (words.length === 0) return true;
  const text = textOf();
  return words.every((word) => text.includes(word));
}

function serviceText(service: ServiceView): string {
  const ports = (service.ports ?? []).flatMap((port) => [port.name, port.port, port.nodePort]);
  const parts = [`${service.namespace}/${service.name}`, service.type, service.externalName, ...(service.vips ?? []), ...ports];
  return parts.join(' ').toLowerCase();
}

function podText(pod: PodView): string {
  const parts = [`${pod.namespace}/${pod.name}`, pod.node, pod.status, ...(pod.ips ?? [])];
  return parts.join(' ').toLowerCase();
}
