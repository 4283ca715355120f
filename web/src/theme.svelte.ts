export type Theme = 'auto' | 'light' | 'dark';

const KEY = 'vipyard-theme';
const ORDER: Theme[] = ['auto', 'light', 'dark'];

/** The colours that the visitor chose, remembered by the browser where it lets us. */
class ThemeChoice {
  current = $state<Theme>('auto');

  constructor() {
    const kept = attempt(() => localStorage.getItem(KEY));
    this.#set(ORDER.find((theme) => theme === kept) ?? 'auto');
  }

  next(): void {
    this.#set(ORDER[(ORDER.indexOf(this.current) + 1) % ORDER.length] ?? 'auto');
    attempt(() => localStorage.setItem(KEY, this.current));
  }

  #set(theme: Theme): void {
    this.current = theme;
    if (theme === 'auto') delete document.documentElement.dataset['theme'];
    else document.documentElement.dataset['theme'] = theme;
  }
}

/** Storage may be switched off; then the choice lasts as long as the page. */
function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}

export const theme = new ThemeChoice();
