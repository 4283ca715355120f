import type { Layout } from './layout';
import type { Edge } from './layout';

/** A Service or a row on the right that the visitor points at. */
export interface Focus {
  kind: 'service' | 'row';
  key: string;
}

/** What belongs to the focus: itself, its lines and their other ends. */
export interface Lit {
  services: Set<string>;
  rows: Set<string>;
  edges: Edge[];
}

/** `null` when there is no focus, or when it points at something that is gone. */
export function light(layout: Layout, focus: Focus | null): Lit | null {
  if (!focus || !exists(layout, focus)) return null;
  const lit: Lit = { services: new Set(), rows: new Set(), edges: [] };
  lit[focus.kind === 'service' ? 'services' : 'rows'].add(focus.key);
  for (const edge of layout.edges) {
    if (edge[focus.kind] !== focus.key) continue;
    lit.edges.push(edge);
    lit.services.add(edge.service);
    lit.rows.add(edge.row);
  }
  return lit;
}

function exists(layout: Layout, focus: Focus): boolean {
  if (focus.kind === 'service') return layout.services.some((row) => row.key === focus.key);
  return layout.groups.some((group) => group.rows.some((row) => row.key === focus.key));
}
