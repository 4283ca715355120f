/**
 * The map on the wire, as `src/dashboard/view.rs` writes it. An empty list or missing text is left out.
 * `fixture.json` is read by the tests of both sides.
 */

export interface Snapshot {
  /** Counts patches; the patch that follows has the next number. */
  revision: number;
  version: string;
  services: ServiceView[];
  pods: PodView[];
  nodes: NodeView[];
}

export interface Patch {
  revision: number;
  services?: Delta<ServiceView>;
  pods?: Delta<PodView>;
  nodes?: Delta<NodeView>;
}

/** Changed things whole, removed things by key: `namespace/name`, or `name` for nodes. */
export interface Delta<V> {
  changed?: V[];
  removed?: string[];
}

export interface ServiceView {
  namespace: string;
  name: string;
  /** ClusterIP, NodePort, LoadBalancer, ExternalName, or Headless. */
  type: string;
  vips?: string[];
  externalName?: string;
  ports?: PortView[];
  endpoints?: EndpointView[];
}

export interface PortView {
  name?: string;
  protocol: string;
  port: number;
  nodePort?: number;
  /** As its author wrote it: a number or the name of a container's port. */
  targetPort?: string;
}

export interface EndpointView {
  /** The Pod's `namespace/name`. */
  pod?: string;
  ip: string;
  node?: string;
  ready: boolean;
  serving: boolean;
  terminating: boolean;
  ports?: EndpointPortView[];
}

export interface EndpointPortView {
  name?: string;
  protocol: string;
  port: number;
}

export interface PodView {
  namespace: string;
  name: string;
  uid: string;
  node?: string;
  ips?: string[];
  phase: string;
  ready: boolean;
  terminating: boolean;
  /** One word as in kubectl's STATUS column. */
  status: string;
  message?: string;
  restarts: number;
}

export interface NodeView {
  name: string;
  zone?: string;
  addresses?: string[];
  ready: boolean;
}
