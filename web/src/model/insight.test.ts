import { expect, test } from 'vitest';

import { FlowLines, type FlowLine } from './insight';

const line = (number: number, event: FlowLine['event'], client: string): FlowLine => ({
  number, event, time: '2026-01-01T00:00:00.000Z', protocol: 'TCP', count: 1, destination: '10.96.0.1:80',
  client: { kind: 'Pod', name: 'a/client', node: 'n1', address: client }, server: { kind: 'Pod', name: 'a/web', node: 'n2', address: '10.244.2.2:80' },
});

test('the end of a flow takes the place of its start, the newest lines stay', () => {
  const flows = new FlowLines(3);
  flows.add(line(1, 'start', '10.244.1.2:1'));
  flows.add(line(2, 'start', '10.244.1.2:2'));
  flows.add(line(3, 'end', '10.244.1.2:1'));
  expect(flows.lines.map(({ number }) => number)).toEqual([3, 2]);
  for (const number of [4, 5]) flows.add(line(number, 'drop', '10.244.1.2:9'));
  expect(flows.lines.map(({ number }) => number)).toEqual([5, 4, 3]);
});
