import { ask, get, Refused } from './api';
import type { KubeObject, Status } from './model/kubernetes';
import type { Manifest } from './model/manifest';

export interface Options {
  dryRun: boolean;
  /** Take fields over that others own. */
  force: boolean;
  /** Replace what is there, so that what is left out goes; else server-side apply. */
  replace: boolean;
}

export type Outcome = { manifest: Manifest; said: string } | { manifest: Manifest; refused: Status };

interface ResourceList {
  resources: { name: string; kind: string; namespaced: boolean }[];
}

/** Carries the documents out in their order, and goes on after one that is refused. */
export async function carryOut(manifests: Manifest[], options: Options): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const made = new Set(manifests.filter(({ object }) => object.kind === 'Namespace').map(({ object }) => object.metadata?.name));
  for (const manifest of manifests) {
    try {
      outcomes.push({ manifest, said: await one(manifest, options) });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const { status } = error;
      // A namespace of the same text is there when its turn comes, and not in a dry run.
      const later = options.dryRun && status.code === 404 && status.details?.kind === 'namespaces' && made.has(status.details.name ?? '');
      outcomes.push(later ? { manifest, said: 'is checked once its namespace is there' } : { manifest, refused: status });
    }
  }
  return outcomes;
}

async function one({ object }: Manifest, { dryRun, force, replace }: Options): Promise<string> {
  const collection = await collectionOf(object);
  const path = `${collection}/${encodeURIComponent(object.metadata?.name ?? '')}`;
  const params = new URLSearchParams({ fieldManager: 'vipyard-dashboard', fieldValidation: 'Strict' });
  if (dryRun) params.set('dryRun', 'All');
  const body = JSON.stringify(object);
  if (!replace) {
    params.set('force', String(force));
    const headers = { 'Content-Type': 'application/apply-patch+yaml' };
    const response = await ask(`${path}?${params}`, { method: 'PATCH', headers, body });
    return response.status === 201 ? 'created' : 'applied';
  }
  const headers = { 'Content-Type': 'application/json' };
  try {
    await ask(`${path}?${params}`, { method: 'PUT', headers, body });
    return 'replaced';
  } catch (error) {
    if (!(error instanceof Refused) || error.status.code !== 404) throw error;
    await ask(`${collection}?${params}`, { method: 'POST', headers, body });
    return 'created';
  }
}

/** Where objects of this kind are: the server says which resource it is. */
async function collectionOf(object: KubeObject): Promise<string> {
  const version = object.apiVersion ?? '';
  const root = version.includes('/') ? `/apis/${version}` : `/api/${version}`;
  const { resources } = await get<ResourceList>(root).catch((error: unknown) => {
    if (error instanceof Refused && error.status.code === 404) throw unknown(object, 'apiVersion', `the cluster has no ${version}`);
    throw error;
  });
  const found = resources.find(({ kind, name }) => kind === object.kind && !name.includes('/'));
  if (!found) throw unknown(object, 'kind', `${version} has no kind ${object.kind}`);
  const namespace = encodeURIComponent(object.metadata?.namespace || 'default');
  return found.namespaced ? `${root}/namespaces/${namespace}/${found.name}` : `${root}/${found.name}`;
}

function unknown(object: KubeObject, field: string, message: string): Refused {
  const details = { name: object.metadata?.name ?? '', causes: [{ field, message }] };
  return new Refused({ kind: 'Status', code: 404, message, details });
}

export async function remove(path: string): Promise<void> {
  await ask(path, { method: 'DELETE', headers: { 'Content-Type': 'application/json' } });
}
