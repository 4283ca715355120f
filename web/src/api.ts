import type { Status } from './model/kubernetes';

/** Where the dashboard passes requests on to the API. */
const API = '/ui/v1/api';
/** Another site's page can't send this without being let; the server asks for it with every change. */
const MARK = { 'X-Vipyard-UI': '1' };

/** What the server said no to, in its own words. */
export class Refused extends Error {
  readonly status: Status;

  constructor(status: Status) {
    super(status.message ?? `the server answers ${status.code ?? 'with an error'}`);
    this.status = status;
  }
}

/** @throws {Refused} what the server says, or that it can't be asked */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = { Accept: 'application/json', ...(init.method && init.method !== 'GET' ? MARK : {}), ...(init.headers as Record<string, string>) };
  let response: Response;
  try {
    response = await fetch(`${API}${path}`, { ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Refused({ kind: 'Status', message: 'The cluster does not answer.', code: 0 });
  }
  if (response.ok) return response;
  throw new Refused(await statusOf(response));
}

async function statusOf(response: Response): Promise<Status> {
  const text = await response.text();
  try {
    const status = JSON.parse(text) as Status;
    if (status.kind === 'Status') return status;
  } catch {
    // Not of the API: the text is all there is.
  }
  return { kind: 'Status', message: text.trim() || response.statusText, code: response.status };
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await ask(path, signal ? { signal } : {})).json()) as T;
}

/** Lines of an answer that goes on, as they come. Bytes that are no text become replacement characters. */
export async function lines(path: string, signal: AbortSignal, take: (lines: string[]) => void): Promise<void> {
  const response = await ask(path, { signal, headers: { Accept: '*/*' } });
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const part = await reader?.read();
    if (!part || part.done) break;
    const whole = (rest + part.value).split('\n');
    rest = whole.pop() ?? '';
    if (whole.length > 0) take(whole);
  }
  if (rest) take([rest]);
}

export function objectPath(resource: 'services' | 'pods', namespace: string, name: string): string {
  return `/api/v1/namespaces/${encodeURIComponent(namespace)}/${resource}/${encodeURIComponent(name)}`;
}

export function why(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
