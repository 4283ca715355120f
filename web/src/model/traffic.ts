import type { Traffic } from './types';

/** How much passes on each line of the map now, and what is refused. */
export class Rates {
  /** Bytes per second by the line's key, `service>row`. */
  readonly lines: ReadonlyMap<string, number>;
  /** Packets per second that found no way, by Service. */
  readonly refused: ReadonlyMap<string, number>;

  constructor(traffic: Traffic = { milliseconds: 1000 }) {
    const perSecond = 1000 / Math.max(traffic.milliseconds, 1);
    this.lines = new Map((traffic.passed ?? []).map(([service, row, bytes]) => [`${service}>${row}`, bytes * perSecond]));
    this.refused = new Map((traffic.refused ?? []).map(([service, count]) => [service, count * perSecond]));
  }

  /** What passes to all of a Service's endpoints. */
  of(service: string): number {
    let sum = 0;
    for (const [key, rate] of this.lines) if (key.startsWith(`${service}>`)) sum += rate;
    return sum;
  }
}

/** From a thin line for a byte a second to a thick one for a gigabyte: each factor of ten adds as much. */
export function thickness(bytesPerSecond: number): number {
  return bytesPerSecond > 0 ? 2 + Math.min(Math.log10(1 + bytesPerSecond), 9) * 0.75 : 1.8;
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

export function bytes(count: number): string {
  let unit = 0;
  while (count >= 999.5 && unit < UNITS.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${count < 9.95 && unit > 0 ? count.toFixed(1) : Math.round(count)} ${UNITS[unit]}`;
}
