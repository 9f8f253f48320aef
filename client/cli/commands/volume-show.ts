import type { Segment, Volume } from '../../sdk/types.js';
import { copyingLines } from '../copying.js';
import type { Output } from '../output.js';
import { formatCount, formatSize } from '../units.js';
import { formatLabels } from './node.js';
import { paintState } from './status.js';

/** Everything about one volume. Healthy segments are only counted unless `allSegments`. */
export function printVolume(output: Output, volume: Volume, allSegments: boolean): void {
  output.facts([
    ['volume', `${output.paint(volume.name, 'bold')} (${volume.id})`],
    ['size', formatSize(volume.sizeBytes)],
    ['health', paintState(output, volume.health) + (volume.reason === '' ? '' : `: ${volume.reason}`)],
    ['copies', `${volume.replicas}; a write needs ${volume.minInSync}, with fewer writes ${volume.whenDegraded}`],
    [
      'layout',
      `${formatCount(volume.segments.length, 'segment')} of ${formatSize(volume.segmentBytes)}, stripe width ${volume.stripeWidth}`,
    ],
    ['owner', volume.owner === undefined ? 'none' : `${volume.owner}, epoch ${volume.epoch}`],
    ['attached', attachmentOf(volume)],
    ...(volume.device === undefined ? [] : [['device', volume.device] as const]),
    ...nbdFacts(volume),
    ['labels', formatLabels(volume.labels)],
  ]);
  if (volume.resync.copies.length > 0) output.line();
  for (const line of copyingLines(volume.resync)) output.line(line);
  printSegments(output, volume.segments, allSegments);
}

/** Where NBD clients find it: on its node, and from anywhere when it is served over TCP. */
export function nbdFacts({ nbdUri, nbdTcpUri }: Pick<Volume, 'nbdUri' | 'nbdTcpUri'>): (readonly [string, string])[] {
  return [
    ...(nbdUri === undefined ? [] : [['NBD', nbdUri] as const]),
    ...(nbdTcpUri === undefined ? [] : [['NBD over TCP', nbdTcpUri] as const]),
  ];
}

function attachmentOf({ attachment }: Volume): string {
  if (attachment === undefined) return 'no';
  const error = attachment.error === '' ? '' : ` (${attachment.error})`;
  return `to ${attachment.node}${attachment.device ? ' as a device' : ''}, ${attachment.state}${error}`;
}

const isHealthy = (segment: Segment) => segment.replicas.every(({ state, alive }) => state === 'in-sync' && alive);

function printSegments(output: Output, segments: readonly Segment[], all: boolean): void {
  const shown = segments.filter((segment) => all || segments.length === 1 || !isHealthy(segment));
  const hidden = segments.length - shown.length;
  if (shown.length > 0) {
    output.line();
    const rows = shown.flatMap((segment) =>
      segment.replicas.map((replica, index) => [
        index === 0 ? String(segment.index) : '',
        index === 0 ? String(segment.generation) : '',
        replica.node + (replica.alive ? '' : ' (down)'),
        paintState(output, replica.state) + (replica.replaces === undefined ? '' : ' (moves in)'),
        replica.path,
      ]),
    );
    output.table(['SEGMENT', 'GENERATION', 'NODE', 'COPY', 'DRIVE'], rows);
  }
  if (hidden > 0) output.line(`${formatCount(hidden, 'segment')} with all copies in sync (--segments lists them)`);
}
