import type { EndpointView, PodView, PortView, ServiceView } from './types';

/** How a Pod or an endpoint fares; each has a colour and a kind of line. */
export type State = 'ready' | 'notReady' | 'terminating' | 'failing';

export const STATES: { state: State; label: string }[] = [
  { state: 'ready', label: 'ready' },
  { state: 'notReady', label: 'not ready' },
  { state: 'terminating', label: 'terminating' },
  { state: 'failing', label: 'failing' },
];

export function labelOf(state: State): string {
  return STATES.find((entry) => entry.state === state)?.label ?? state;
}

const FAILING = /BackOff|Err|Fail|Invalid|OOMKilled|CannotRun|Evicted/;

export function podState(pod: PodView): State {
  if (pod.terminating) return 'terminating';
  if (pod.phase === 'Failed' || FAILING.test(pod.status)) return 'failing';
  return pod.ready ? 'ready' : 'notReady';
}

/** The endpoint's own conditions decide; the Pod only tells why one isn't ready. */
export function endpointState(endpoint: EndpointView, pod: PodView | undefined): State {
  if (endpoint.terminating) return 'terminating';
  if (!endpoint.notReady) return 'ready';
  return pod && podState(pod) === 'failing' ? 'failing' : 'notReady';
}

/** Where a Service port leads: the number that its endpoints answer on, else what the Service says. */
export function targetOf(service: ServiceView, port: PortView): string | undefined {
  const found = service.targets?.find((p) => (p.name ?? '') === (port.name ?? '') && p.protocol === port.protocol);
  return found ? String(found.port) : port.targetPort;
}
