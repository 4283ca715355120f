/** What `/vipyard/v1/explain/…` and `/vipyard/v1/flows` answer, as docs/explain.md describes it. Fields that say nothing are left out. */

export interface Ref {
  kind: string;
  namespace?: string;
  name: string;
  uid: string;
  resourceVersion: string;
}

export interface Finding {
  code: string;
  message: string;
  fix?: string;
  restsOn?: Ref[];
}

export interface ServiceReport {
  service: Ref;
  type: string;
  serving: boolean;
  /** Each port serves, from everywhere; false where `serving` is true means: in part. */
  complete: boolean;
  summary: string;
  problems: Finding[];
  dnsName: string;
  selector?: Record<string, string>;
  addresses: { kind: string; address: string }[];
  ports: PortReport[];
  nearMisses: { pod: Ref; node?: string; phase: string; reasons: Finding[] }[];
  moreNearMisses: number;
}

export interface PortReport {
  name: string;
  protocol: string;
  port: number;
  targetPort: string;
  nodePort?: number;
  family: string;
  endpoints: EndpointReport[];
  choices: { nodes: string[]; traffic: string; list: string; why: string; uses: string[]; leftOut: { address: string; filter: string; why: string }[] }[];
}

export interface EndpointReport {
  address: string;
  pod?: Ref;
  node?: string;
  zone?: string;
  ready: boolean;
  serving: boolean;
  terminating: boolean;
}

export interface FlowReport {
  from: string;
  to: string;
  protocol: string;
  family?: string;
  reachable: boolean;
  verdict: { result: string; reason?: string; message: string };
  steps: Step[];
  problems: Finding[];
}

export interface Step {
  step: string;
  node?: string;
  text: string;
  answers?: string[];
  candidates?: { address: string; pod?: string; node?: string; left: boolean; filter?: string; why?: string }[];
  before?: { source: string; destination: string };
  after?: { source: string; destination: string };
  restsOn?: Ref[];
}

export interface FlowLine {
  number: number;
  time: string;
  event: 'start' | 'end' | 'drop' | 'reject' | 'suppressed' | 'lost';
  protocol?: string;
  client?: Side;
  destination?: string;
  service?: { namespace?: string; name: string; portName?: string; port: number; via?: string; list?: string; remembered?: boolean; masquerade?: string };
  server?: Side;
  source?: string;
  nodes?: string[];
  packets?: [number, number];
  bytes?: [number, number];
  durationMs?: number;
  result?: string;
  reason?: string;
  count: number;
}

export interface Side {
  kind: string;
  /** `NAMESPACE/NAME` of a Pod. */
  name: string;
  node: string;
  address?: string;
}

/** The newest lines first, bounded; a flow's end takes the place of its start. */
export class FlowLines {
  readonly limit: number;
  lines: FlowLine[] = [];

  constructor(limit: number) {
    this.limit = limit;
  }

  add(line: FlowLine): void {
    const open = line.event === 'end' ? this.lines.findIndex((old) => old.event === 'start' && same(old, line)) : -1;
    if (open >= 0) this.lines.splice(open, 1);
    this.lines.unshift(line);
    if (this.lines.length > this.limit) this.lines.length = this.limit;
  }
}

function same(a: FlowLine, b: FlowLine): boolean {
  return a.protocol === b.protocol && a.client?.address === b.client?.address && a.destination === b.destination && a.server?.address === b.server?.address;
}

export function isRefusal(line: FlowLine): boolean {
  return line.event === 'drop' || line.event === 'reject' || line.event === 'suppressed';
}
