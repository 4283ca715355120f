/**
 * Keeps rows where they are. Each group has numbered slots: a row that leaves frees its slot, a new row takes the
 * first free one. So a replaced Pod appears where the old one was, and nothing else moves. A group with more gaps than
 * rows closes up.
 */
export class Slots {
  #scope = '';
  readonly #groups = new Map<string, (string | null)[]>();

  /** Forgets all slots when `scope` differs from the last one: another filter is another picture. */
  scope(scope: string): void {
    if (scope === this.#scope) return;
    this.#scope = scope;
    this.#groups.clear();
  }

  /** The group's slots with `keys` in them, `null` for a gap. The same keys again give the same slots. */
  arrange(group: string, keys: string[]): readonly (string | null)[] {
    const wanted = new Set(keys);
    let slots = (this.#groups.get(group) ?? []).map((key) => (key !== null && wanted.has(key) ? key : null));
    const placed = new Set(slots);
    let free = 0;
    for (const key of keys) {
      if (placed.has(key)) continue;
      while (free < slots.length && slots[free] !== null) free += 1;
      slots[free] = key;
    }
    while (slots.length > 0 && slots[slots.length - 1] === null) slots.pop();
    if (slots.length > 2 * keys.length) slots = slots.filter((key) => key !== null);
    this.#groups.set(group, slots);
    return slots;
  }
}
