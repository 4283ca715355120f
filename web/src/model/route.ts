/**
 * Which page is shown, kept behind the `#` of the address: so the server has one page to serve, and back, forward and
 * bookmarks work. Parts are encoded, since names are anybody's text.
 */
export type Route =
  | { page: 'map' }
  | { page: 'table' }
  | { page: 'service'; namespace: string; name: string }
  | { page: 'pod'; namespace: string; name: string }
  | { page: 'flows'; service: string; pod: string; dropped: boolean }
  | { page: 'explain'; from: string; to: string; protocol: string; node: string }
  | { page: 'edit'; path: string };

export function parse(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split('?', 2);
  const [page, namespace, name] = path.split('/').map(decode);
  const params = new URLSearchParams(query);
  const text = (key: string) => params.get(key) ?? '';
  switch (page) {
    case 'services':
      if (namespace && name) return { page: 'service', namespace, name };
      break;
    case 'pods':
      if (namespace && name) return { page: 'pod', namespace, name };
      break;
    case 'table':
      return { page: 'table' };
    case 'flows':
      return { page: 'flows', service: text('service'), pod: text('pod'), dropped: params.has('dropped') };
    case 'explain':
      return { page: 'explain', from: text('from'), to: text('to'), protocol: text('protocol') || 'tcp', node: text('node') };
    case 'edit':
      return { page: 'edit', path: text('path') };
  }
  return { page: 'map' };
}

export function href(route: Route): string {
  switch (route.page) {
    case 'map':
      return '#/';
    case 'table':
      return '#/table';
    case 'service':
      return `#/services/${encodeURIComponent(route.namespace)}/${encodeURIComponent(route.name)}`;
    case 'pod':
      return `#/pods/${encodeURIComponent(route.namespace)}/${encodeURIComponent(route.name)}`;
    case 'flows':
      return `#/flows${query({ service: route.service, pod: route.pod, dropped: route.dropped ? '1' : '' })}`;
    case 'explain':
      return `#/explain${query({ from: route.from, to: route.to, protocol: route.protocol === 'tcp' ? '' : route.protocol, node: route.node })}`;
    case 'edit':
      return `#/edit${query({ path: route.path })}`;
  }
}

/** The page of `namespace/name`. */
export function hrefOf(page: 'service' | 'pod', key: string): string {
  const slash = key.indexOf('/');
  return href({ page, namespace: key.slice(0, slash), name: key.slice(slash + 1) });
}

function query(values: Record<string, string>): string {
  const params = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== ''));
  return params.size > 0 ? `?${params}` : '';
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
