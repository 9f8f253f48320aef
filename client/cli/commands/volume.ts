import { Command, Option } from 'commander';
import type { AttachVolume, CreateVolume, VerifyReport, VolumeSummary } from '../../sdk/types.js';
import { contextOf, labelArgument, numberArgument, sizeArgument, type Surroundings } from '../context.js';
import { Failed, UsageError } from '../errors.js';
import type { Output } from '../output.js';
import { formatCount, formatSize } from '../units.js';
import { addMoveReplica } from './move-replica.js';
import { paintState } from './status.js';
import { addForcePrimary } from './volume-force.js';
import { nbdFacts, printVolume } from './volume-show.js';

const WAIT_SECONDS_MAX = 300;
const VERIFY_POLL_MS = 500;

interface CreateOptions {
  readonly size: number;
  readonly replicas?: number;
  readonly minInSync?: number;
  readonly stripeWidth?: number;
  readonly segmentSize?: number;
  readonly whenDegraded?: 'suspend' | 'fail';
  readonly label?: Record<string, string>;
}

/** `braid volume …`. */
export function volumeCommand(surroundings: Surroundings): Command {
  const group = new Command('volume').alias('vol').description('replicated block devices');
  addCreate(group, surroundings);
  addLists(group, surroundings);
  addRemove(group, surroundings);
  addAttach(group, surroundings);
  addDetach(group, surroundings);
  addMoveReplica(group, surroundings);
  addVerify(group, surroundings);
  addForcePrimary(group, surroundings);
  return group;
}

/** The options that were given, without the undefined ones. */
function given<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

function addCreate(group: Command, surroundings: Surroundings): void {
  group
    .command('create <name>')
    .description('make a volume')
    .requiredOption('--size <size>', 'size of the device: 512Mi, 20Gi', sizeArgument)
    .option('--replicas <count>', 'copies of the data, each on another node (2)', numberArgument(1, 3))
    .option('--min-in-sync <count>', 'copies that a write needs (replicas - 1, at least 1)', numberArgument(1, 3))
    .option('--stripe-width <count>', 'segments that consecutive MiBs rotate over', numberArgument(1, 16))
    .option('--segment-size <size>', 'size of a segment (1Gi, less in small pools)', sizeArgument)
    .addOption(
      new Option('--when-degraded <action>', 'writes below min-in-sync wait or fail').choices(['suspend', 'fail']),
    )
    .option('--label <key=value>', 'a label; may be repeated', labelArgument)
    .addHelpText('after', '\nExamples:\n  braid volume create data --size 20Gi --replicas 3')
    .action(async (name: string, options: CreateOptions, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const { label, size, ...rest } = options;
      const wanted: CreateVolume = { name, size, ...given(rest), ...(label === undefined ? {} : { labels: label }) };
      const volume = await client.createVolume(wanted);
      output.result(volume, () => {
        const copies = volume.replicas === 1 ? '1 copy' : `${volume.replicas} copies`;
        output.line(`Volume ${volume.name}: ${formatSize(volume.sizeBytes)}, ${copies}`);
        output.line(`Next: braid volume attach ${volume.name} --device`);
      });
    });
}

function addLists(group: Command, surroundings: Surroundings): void {
  group
    .command('ls')
    .description('list the volumes')
    .action(async (_options: object, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const volumes = await client.volumes();
      output.result({ volumes }, () => printVolumes(output, volumes));
    });
  group
    .command('show <name>')
    .description('one volume: health, attachment, and where its copies are')
    .option('--segments', 'list every segment, the healthy ones too')
    .action(async (name: string, options: { segments?: boolean }, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const volume = await client.volume(name);
      output.result(volume, () => printVolume(output, volume, options.segments ?? false));
    });
}

function printVolumes(output: Output, volumes: VolumeSummary[]): void {
  const rows = volumes.map((volume) => [
    volume.name,
    formatSize(volume.sizeBytes),
    String(volume.replicas),
    paintState(output, volume.health),
    volume.node ?? '-',
    volume.device ?? '-',
    volume.reason,
  ]);
  output.table(['NAME', 'SIZE', 'COPIES', 'HEALTH', 'ATTACHED TO', 'DEVICE', 'REASON'], rows);
}

function addRemove(group: Command, surroundings: Surroundings): void {
  group
    .command('rm <name>')
    .description('delete a volume and its data')
    .option('--yes', 'do not ask for the name again (for scripts)')
    .action(async (name: string, options: { yes?: boolean }, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      if (options.yes !== true) {
        const volume = await client.volume(name);
        const what = `volume ${name} (${formatSize(volume.sizeBytes)}) and all its data`;
        throw new UsageError(`this deletes ${what} for ever; to do it: braid volume rm ${name} --yes`);
      }
      const deleted = await client.deleteVolume(name);
      output.result(deleted, () => output.line(`Volume ${deleted.name} is deleted`));
    });
}

function addAttach(group: Command, surroundings: Surroundings): void {
  group
    .command('attach <name>')
    .description('serve a volume on a node, over NBD and with --device as a block device')
    .option('--node <name>', 'where; default: the node that answers')
    .option('--device', 'make a block device of it (needs root and nbdfuse on that node)')
    .option('--wait <seconds>', 'how long to wait until it is served (30)', numberArgument(0, WAIT_SECONDS_MAX))
    .addHelpText('after', '\nExamples:\n  braid volume attach data --device\n  mkfs.ext4 /dev/loop0')
    .action(async (name: string, options: { node?: string; device?: boolean; wait?: number }, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const wanted: AttachVolume = {
        ...(options.node === undefined ? {} : { node: options.node }),
        ...(options.device === undefined ? {} : { device: options.device }),
        ...(options.wait === undefined ? {} : { timeoutMs: options.wait * 1_000 }),
      };
      const attached = await client.attachVolume(name, wanted);
      output.result(attached, () => {
        output.line(`Volume ${name} is attached to ${attached.node}`);
        output.facts([
          ...(attached.device === undefined ? [] : [['device', output.paint(attached.device, 'bold')] as const]),
          ...nbdFacts(attached),
        ]);
      });
    });
}

function addDetach(group: Command, surroundings: Surroundings): void {
  group
    .command('detach <name>')
    .description('stop serving a volume; refused while its device is mounted or open')
    .option('--force', 'all the same: whoever uses it gets I/O errors')
    .option('--wait <seconds>', 'how long to wait until it is released (30)', numberArgument(0, WAIT_SECONDS_MAX))
    .action(async (name: string, options: { force?: boolean; wait?: number }, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const detached = await client.detachVolume(name, {
        ...(options.force === undefined ? {} : { force: options.force }),
        ...(options.wait === undefined ? {} : { timeoutMs: options.wait * 1_000 }),
      });
      output.result(detached, () => {
        const doubt = detached.released ? '' : '; its node does not answer, so it ends there with its lease';
        output.line(`Volume ${name} is detached${doubt}`);
      });
    });
}

function addVerify(group: Command, surroundings: Surroundings): void {
  group
    .command('verify <name>')
    .description('read and compare all copies of a volume; exit code 1 when copies differ or are damaged')
    .action(async (name: string, _options: object, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const report = await withSpinner(output, `comparing the copies of ${name}`, () => client.verifyVolume(name));
      output.result(report, () => printVerify(output, name, report));
      if (report.differences.length + report.damaged.length > 0) throw new Failed();
    });
}

/** Shows that something is under way whose progress is not known. */
async function withSpinner<T>(output: Output, label: string, work: () => Promise<T>): Promise<T> {
  const startedAt = performance.now();
  const timer = setInterval(() => {
    const seconds = (performance.now() - startedAt) / 1_000;
    if (output.isLive) output.stdout.write(`\r\u001b[K${label} … ${seconds.toFixed(0)} s`);
  }, VERIFY_POLL_MS);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    output.endProgress();
  }
}

function printVerify(output: Output, name: string, report: VerifyReport): void {
  const compared = `${formatCount(report.extentsCompared, 'extent')} of 128 KiB`;
  if (report.differences.length + report.damaged.length === 0) {
    const copies = report.copiesMin === 1 ? 'there is one copy only' : `${report.copiesMin} copies are identical`;
    output.line(`${output.paint('ok', 'green')} ${name}: ${copies}, ${compared} compared`);
    return;
  }
  const mark = output.paint('!', 'red');
  if (report.damaged.length > 0) {
    output.line(`${mark} ${name}: ${formatCount(report.damaged.length, 'damaged copy', 'damaged copies')} of extents`);
    const rows = report.damaged.map(({ offsetBytes, driveId, problem }) => [
      String(offsetBytes),
      driveId,
      problem === 'checksum' ? 'does not match its checksum' : 'cannot be read',
    ]);
    output.table(['OFFSET', 'DRIVE', 'PROBLEM'], rows);
    output.line('They are rewritten from another copy now. Verify again; if they are still listed, no copy can give');
    output.line('them: "braid events" says which bytes to write anew, for example from a backup.');
  }
  if (report.differences.length === 0) return;
  output.line(`${mark} ${name}: copies differ in ${formatCount(report.differences.length, 'extent')}`);
  const rows = report.differences.map(({ offsetBytes, driveIds }) => [String(offsetBytes), driveIds.join(' ')]);
  output.table(['OFFSET', 'DRIVES'], rows);
  output.line(
    'Each of these copies passes its own checksums, so none is rewritten. Compare the data at these offsets with',
  );
  output.line('a backup and write it anew, and please report this: it should never happen.');
}
