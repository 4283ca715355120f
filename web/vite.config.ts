import { svelte } from '@sveltejs/vite-plugin-svelte';
import type { Plugin, ProxyOptions } from 'vite';
import { defineConfig } from 'vitest/config';

/** Puts dist/.gitignore back, which a build empties with the rest: the folder has to exist in a fresh clone. */
function keepFolderInGit(): Plugin {
  return {
    name: 'keep-folder-in-git',
    apply: 'build',
    generateBundle() {
      this.emitFile({ type: 'asset', fileName: '.gitignore', source: '*\n!.gitignore\n' });
    },
  };
}

/**
 * `VIPYARD_URL='http://127.0.0.1:8080/?token=…' npm run dev` serves the page from its sources over a running cluster.
 * The dashboard answers its own origin alone, hence the changed headers.
 */
function runningCluster(): Record<string, ProxyOptions> {
  const address = process.env['VIPYARD_URL'];
  if (!address) return {};
  const url = new URL(address);
  const cookie = `vipyard${url.port && `-${url.port}`}=${url.searchParams.get('token') ?? ''}`;
  return { '/ui': { target: url.origin, changeOrigin: true, headers: { cookie, origin: url.origin } } };
}

export default defineConfig({
  plugins: [svelte(), keepFolderInGit()],
  build: { target: 'es2022', modulePreload: { polyfill: false }, assetsInlineLimit: 0 },
  // Who may use the API through the proxy is this page alone: no other origin is let in.
  server: { cors: false, proxy: runningCluster() },
  preview: { cors: false },
  test: { include: ['src/**/*.test.ts'] },
});
