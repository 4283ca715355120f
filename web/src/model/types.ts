/**
 * The map on the wire, as `src/dashboard/view.rs` writes it. An empty list or missing text is left out.
 * `fixture.json` is read by the tests of both sides. An endpoint says what is unusual about it.
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
  /** Of Services that are the same but for some of their endpoints. */
  endpoints?: EndpointsDelta[];
  pods?: Delta<PodView>;
  nodes?: Delta<NodeView>;
}

/** Changed things whole, removed things by key: `namespace/name`, or `name` for nodes. */
export interface Delta<V> {
  changed?: V[];
  removed?: string[];
}

export interface EndpointsDelta {
  /** The Service's `namespace/name`. */
  service: string;
  changed?: EndpointView[];
  removed?: EndpointKey[];
}

export interface EndpointKey {
  pod?: string;
  ip: string;
}

/** What passed in the last `milliseconds`. */
export interface Traffic {
  milliseconds: number;
  /** Service, Pod (or `ip:ADDRESS`), bytes. */
  passed?: [string, string, number][];
  /** Service, packets that were dropped or rejected. */
  refused?: [string, number][];
}

export interface ServiceView {
  namespace: string;
  name: string;
  /** ClusterIP, NodePort, LoadBalancer, ExternalName, or Headless. */
  type: string;
  vips?: string[];
  externalName?: string;
  ports?: PortView[];
  /** On which ports most of its endpoints answer. */
  targets?: EndpointPortView[];
  labels?: Record<string, string>;
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

export interface EndpointView extends EndpointKey {
  node?: string;
  notReady?: boolean;
  notServing?: boolean;
  terminating?: boolean;
  /** Where they are not the Service's `targets`. */
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
  labels?: Record<string, string>;
}

export interface NodeView {
  name: string;
  zone?: string;
  addresses?: string[];
  ready: boolean;
}
