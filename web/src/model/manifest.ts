/** Documents of YAML as the editor sees them: what they name, and where in the text a field stands. */
import { isCollection, isMap, isNode, LineCounter, parseAllDocuments, stringify, type Document } from 'yaml';

import type { KubeObject, Status } from './kubernetes';

export interface Manifest {
  object: KubeObject;
  /** `Service shop/web`, for people. */
  title: string;
  line: number;
  document: Document;
}

/** What is wrong, and in which line. */
export interface Problem {
  line: number;
  field?: string;
  message: string;
}

export interface Manifests {
  manifests: Manifest[];
  problems: Problem[];
  lines: LineCounter;
}

export function read(text: string): Manifests {
  const lines = new LineCounter();
  const found: Manifests = { manifests: [], problems: [], lines };
  const parsed = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false });
  for (const document of Array.isArray(parsed) ? parsed : []) {
    const at = lines.linePos(isNode(document.contents) ? (document.contents.range?.[0] ?? 0) : 0).line;
    if (document.errors.length > 0) {
      for (const error of document.errors) found.problems.push({ line: lines.linePos(error.pos[0]).line, message: error.message });
      continue;
    }
    if (document.contents === null) continue;
    if (!isMap(document.contents)) {
      found.problems.push({ line: at, message: 'an object is wanted here: apiVersion, kind, metadata and so on' });
      continue;
    }
    const object = document.toJS({ maxAliasCount: 100 }) as KubeObject;
    const missing = (['apiVersion', 'kind'] as const).filter((field) => typeof object[field] !== 'string' || object[field] === '');
    const name = object.metadata?.name;
    if (typeof name !== 'string' || name === '') missing.push('metadata.name' as never);
    if (missing.length > 0) {
      for (const field of missing) found.problems.push({ line: at, field, message: `${field} is missing` });
      continue;
    }
    const namespace = object.metadata?.namespace;
    found.manifests.push({ object, title: `${object.kind} ${namespace ? `${namespace}/` : ''}${name}`, line: at, document });
  }
  return found;
}

/** The line of a field as the server names it (`spec.ports[0].port`), or of the nearest that is there. */
export function lineOf(manifest: Manifest, field: string, lines: LineCounter): number {
  let node: unknown = manifest.document.contents;
  let line = manifest.line;
  for (const part of steps(field)) {
    if (!isCollection(node)) break;
    const pair = isMap(node) ? node.items.find((item) => keyText(item.key) === part) : undefined;
    const next = node.get(isMap(node) ? part : Number(part), true);
    const place = isNode(pair?.key) ? pair.key : next;
    if (!isNode(place) || !place.range) break;
    line = lines.linePos(place.range[0]).line;
    node = next;
  }
  return line;
}

function keyText(key: unknown): string {
  return isNode(key) && 'value' in key ? String(key.value) : String(key);
}

function steps(field: string): string[] {
  const found: string[] = [];
  for (const match of field.matchAll(/\[([^\]]*)\]|([^.[\]]+)/g)) found.push((match[1] ?? match[2] ?? '').replace(/^"(.*)"$/, '$1'));
  return found;
}

/** What the server says of a document, each message at the field that it is about. */
export function problemsOf(manifest: Manifest, status: Status, lines: LineCounter): Problem[] {
  const message = status.message ?? 'refused';
  const causes = (status.details?.causes ?? []).filter((cause) => cause.field);
  if (causes.length > 0) {
    return causes.map(({ field = '', message: said = message }) => ({ line: lineOf(manifest, field, lines), field, message: said }));
  }
  const fields = [...message.matchAll(/(?:unknown|duplicate) field "([^"]+)"/g)].map((match) => ({ field: match[1] ?? '', message: match[0] }));
  if (fields.length > 0) return fields.map((found) => ({ ...found, line: lineOf(manifest, found.field, lines) }));
  return [{ line: manifest.line, message }];
}

/** An object as one would write it: without what only the server keeps. */
export function write(object: KubeObject & { metadata?: object }): string {
  const { managedFields: _, ...metadata } = (object.metadata ?? {}) as Record<string, unknown>;
  return stringify({ ...object, metadata }, { lineWidth: 0 });
}
