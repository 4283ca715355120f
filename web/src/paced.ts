/**
 * Calls `action` when asked to, but not more often than every `interval`: the first time at once, what is asked in
 * between once at its end.
 */
export function paced(action: () => void, interval: number): { call: () => void; stop: () => void } {
  let last = -Infinity;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const run = () => {
    timer = undefined;
    last = performance.now();
    action();
  };
  return {
    call() {
      if (timer === undefined) timer = setTimeout(run, Math.max(0, last + interval - performance.now()));
    },
    stop() {
      clearTimeout(timer);
      timer = undefined;
    },
  };
}
