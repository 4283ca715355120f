import type { Patch, Snapshot, Traffic } from './model/types';

/** `paused`: nobody looks at the page, so it doesn't listen. `signedOut`: the token isn't valid (any more). */
export type Connection = 'connecting' | 'live' | 'lost' | 'signedOut' | 'paused';

export interface Listener {
  snapshot(snapshot: Snapshot): void;
  /** Returns false if something was missed and a new snapshot is needed. */
  patch(patch: Patch): boolean;
  traffic(traffic: Traffic): void;
  connection(connection: Connection): void;
}

const STREAM = '/ui/v1/map/stream';
/** A hidden page stops listening after this long, which also spares the browser's few connections per host. */
const PAUSE_AFTER = 30_000;
const RETRY = { first: 500, most: 8_000 };

/** Follows the map until the returned function is called; comes back by itself after the server was away. */
export function follow(listener: Listener): () => void {
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let wait = RETRY.first;

  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = undefined;
  };
  const open = () => {
    close();
    const opened = new EventSource(STREAM);
    source = opened;
    opened.addEventListener('snapshot', (event) => {
      wait = RETRY.first;
      listener.snapshot(JSON.parse(event.data) as Snapshot);
      listener.connection('live');
    });
    opened.addEventListener('patch', (event) => {
      if (!listener.patch(JSON.parse(event.data) as Patch)) open();
    });
    opened.addEventListener('traffic', (event) => listener.traffic(JSON.parse(event.data) as Traffic));
    opened.addEventListener('error', () => {
      if (source !== opened) return;
      close();
      listener.connection('lost');
      timer = setTimeout(retry, wait);
      wait = Math.min(wait * 2, RETRY.most);
    });
  };
  // An EventSource doesn't tell why it failed. A refused token needs another address, not another try.
  const retry = async () => {
    const status = await fetch(STREAM, { method: 'HEAD' }).then((r) => r.status, () => 0);
    if (status === 401 || status === 403) listener.connection('signedOut');
    else open();
  };
  const visibility = () => {
    if (document.hidden) {
      clearTimeout(timer);
      timer = setTimeout(() => {
        close();
        listener.connection('paused');
      }, PAUSE_AFTER);
    } else if (source) {
      clearTimeout(timer);
    } else {
      listener.connection('connecting');
      open();
    }
  };

  document.addEventListener('visibilitychange', visibility);
  addEventListener('online', open);
  listener.connection('connecting');
  open();
  return () => {
    close();
    document.removeEventListener('visibilitychange', visibility);
    removeEventListener('online', open);
  };
}
