import type { Delta, EndpointKey, EndpointsDelta, NodeView, Patch, PodView, ServiceView, Snapshot } from './types';

/** The map as this viewer knows it: a snapshot, and each patch since. */
export class ClusterMap {
  revision = -1;
  version = '';
  readonly services = new Map<string, ServiceView>();
  readonly pods = new Map<string, PodView>();
  readonly nodes = new Map<string, NodeView>();

  /** Whether a first snapshot has come. */
  get known(): boolean {
    return this.revision >= 0;
  }

  snapshot(snapshot: Snapshot): void {
    this.revision = snapshot.revision;
    this.version = snapshot.version;
    replace(this.services, snapshot.services, namespaced);
    replace(this.pods, snapshot.pods, namespaced);
    replace(this.nodes, snapshot.nodes, named);
  }

  /** Returns false, and does nothing, if patches before this one are missing: then a new snapshot is needed. */
  patch(patch: Patch): boolean {
    if (patch.revision !== this.revision + 1) return false;
    this.revision = patch.revision;
    apply(this.services, patch.services, namespaced);
    for (const delta of patch.endpoints ?? []) mend(this.services, delta);
    apply(this.pods, patch.pods, namespaced);
    apply(this.nodes, patch.nodes, named);
    return true;
  }
}

export function namespaced(thing: { namespace: string; name: string }): string {
  return `${thing.namespace}/${thing.name}`;
}

/** A Service with some of its endpoints changed is a new object, so that whoever compares sees it. */
function mend(services: Map<string, ServiceView>, delta: EndpointsDelta): void {
  const service = services.get(delta.service);
  if (!service) return;
  const endpoints = new Map((service.endpoints ?? []).map((endpoint) => [told(endpoint), endpoint]));
  for (const gone of delta.removed ?? []) endpoints.delete(told(gone));
  for (const endpoint of delta.changed ?? []) endpoints.set(told(endpoint), endpoint);
  services.set(delta.service, { ...service, endpoints: [...endpoints.values()] });
}

function told(endpoint: EndpointKey): string {
  return `${endpoint.pod ?? ''} ${endpoint.ip}`;
}

function named(thing: { name: string }): string {
  return thing.name;
}

function replace<V>(all: Map<string, V>, views: V[], key: (view: V) => string): void {
  all.clear();
  for (const view of views) all.set(key(view), view);
}

function apply<V>(all: Map<string, V>, delta: Delta<V> | undefined, key: (view: V) => string): void {
  for (const gone of delta?.removed ?? []) all.delete(gone);
  for (const view of delta?.changed ?? []) all.set(key(view), view);
}
