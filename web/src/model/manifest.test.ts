import { describe, expect, test } from 'vitest';

import { lineOf, problemsOf, read, write } from './manifest';

const TEXT = `# two objects
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  ports:
    - port: 80
    - name: x
      port: 99999
---
apiVersion: v1
kind: ConfigMap
metadata: {name: b, labels: {"a.b/c": d}}
`;

describe('documents of YAML', () => {
  test('are read one by one, with what they name', () => {
    const { manifests, problems } = read(TEXT);
    expect(problems).toEqual([]);
    expect(manifests.map(({ title, line }) => [title, line])).toEqual([['Service shop/web', 2], ['ConfigMap b', 13]]);
  });

  test('that are empty count for nothing', () => {
    expect(read('---\n# nothing\n---\n').manifests).toEqual([]);
    expect(read('').problems).toEqual([]);
  });

  test('that are broken say where', () => {
    const syntax = read('apiVersion: v1\nkind: [\n').problems;
    expect(syntax[0]?.line).toBeGreaterThanOrEqual(2);
    expect(read('just text').problems).toEqual([{ line: 1, message: 'an object is wanted here: apiVersion, kind, metadata and so on' }]);
    expect(read('a: 1\n---\nkind: Pod\nmetadata: {name: x}\n').problems.map(({ line, field }) => [line, field])).toEqual([[1, 'apiVersion'], [1, 'kind'], [1, 'metadata.name'], [3, 'apiVersion']]);
    expect(read('apiVersion: v1\nkind: Pod\nkind: Service\nmetadata: {name: x}\n').problems[0]?.line).toBe(3);
  });

  test('with aliases that grow without bound are not followed', () => {
    const bomb = ['a: &a [x,x,x,x,x,x,x,x,x]', ...[...'bcdefgh'].map((c, i) => `${c}: &${c} [${Array(9).fill(`*${'abcdefgh'[i]}`).join(',')}]`)].join('\n');
    expect(() => read(bomb)).toThrow(/alias/i);
  });
});

describe('a field of a document', () => {
  const { manifests, lines } = read(TEXT);
  test.each([
    ['spec.ports[1].port', 11],
    ['spec.ports[0]', 9],
    ['spec.ports[0].nodePort', 9],
    ['metadata.name', 5],
    ['.spec.ports', 8],
    ['status', 2],
  ])('%s stands in line %d', (field, line) => {
    expect(lineOf(manifests[0]!, field, lines)).toBe(line);
  });

  test('is found behind a key with dots', () => {
    expect(lineOf(manifests[1]!, 'metadata.labels[a.b/c]', lines)).toBe(15);
  });

  test('is where what the server says of it is shown', () => {
    const causes = [{ field: 'spec.ports[1].port', reason: 'FieldValueInvalid', message: 'must be between 1 and 65535' }];
    expect(problemsOf(manifests[0]!, { kind: 'Status', message: 'all', details: { causes } }, lines)).toEqual([{ line: 11, field: 'spec.ports[1].port', message: 'must be between 1 and 65535' }]);
    const strict = { kind: 'Status' as const, message: 'strict decoding error: unknown field "spec.ports[0].prot", unknown field "metadata.nme"' };
    expect(problemsOf(manifests[0]!, strict, lines).map(({ line }) => line)).toEqual([9, 4]);
    expect(problemsOf(manifests[0]!, { kind: 'Status', message: 'no' }, lines)).toEqual([{ line: 2, message: 'no' }]);
  });
});

test('an object is written without what only the server keeps', () => {
  const text = write({ apiVersion: 'v1', kind: 'Pod', metadata: { name: '<b>', managedFields: [] } as never });
  expect(text).toBe('apiVersion: v1\nkind: Pod\nmetadata:\n  name: <b>\n');
});
