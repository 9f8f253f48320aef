/** QEMU's servers: one copy by `qemu-nbd`, and three behind the `quorum` driver, over unix sockets (its best case). */
import { existsSync } from 'node:fs';
import { nbdTarget } from '../fio.js';
import type { Scratch } from '../scratch.js';
import type { SubjectRecipe } from './subject.js';
import { runTool } from './tools.js';

const EXPORT = 'v';
const COPIES = 3;

async function startNbdServer(
  scratch: Scratch,
  name: string,
  volumeBytes: number,
): Promise<{ pid: number; socket: string }> {
  const [image, socket] = [scratch.path(`${name}.img`), scratch.path(`${name}.sock`)];
  await runTool(['fallocate', '--length', String(volumeBytes), image], { signal: scratch.signal });
  const options = [
    '--format=raw',
    '--cache=none',
    '--aio=io_uring',
    '--persistent',
    '--shared=16',
    `--export-name=${EXPORT}`,
  ];
  const command = ['qemu-nbd', ...options, `--socket=${socket}`, image];
  return { pid: await scratch.startDaemon(name, command, () => existsSync(socket)), socket };
}

const uriOf = (socket: string) => `nbd+unix:///${EXPORT}?socket=${socket}`;

export const qemuNbd: SubjectRecipe = {
  name: 'qemu-nbd',
  title: 'qemu-nbd, 1 copy',
  packages: { fio: 'fio', 'qemu-utils': 'qemu-nbd' },
  volumes: 1,
  start: async ({ scratch, volumeBytes }) => {
    const { pid, socket } = await startNbdServer(scratch, 'nbd', volumeBytes);
    return { name: qemuNbd.name, title: qemuNbd.title, pids: [pid], target: nbdTarget(uriOf(socket)) };
  },
};

export const quorum: SubjectRecipe = {
  name: 'quorum',
  title: 'QEMU quorum, 3 copies',
  packages: { fio: 'fio', 'qemu-utils': 'qemu-nbd', 'qemu-system-common': 'qemu-storage-daemon' },
  volumes: COPIES,
  start: async ({ scratch, volumeBytes }) => {
    const servers: { pid: number; socket: string }[] = [];
    for (let copy = 0; copy < COPIES; copy++)
      servers.push(await startNbdServer(scratch, `quorum-${copy}`, volumeBytes));
    const children = servers.flatMap(({ socket }, copy) => [
      ...['--blockdev', `driver=nbd,node-name=c${copy},server.type=unix,server.path=${socket},export=${EXPORT}`],
    ]);
    const members = servers.map((_, copy) => `children.${copy}=c${copy}`).join(',');
    const front = scratch.path('quorum.sock');
    const command = [
      ...['qemu-storage-daemon', ...children],
      ...['--blockdev', `driver=quorum,node-name=q,${members},vote-threshold=2,read-pattern=fifo`],
      ...['--nbd-server', `addr.type=unix,addr.path=${front}`],
      ...['--export', `type=nbd,id=e,node-name=q,name=${EXPORT},writable=on`],
    ];
    // The socket is there before the export is; the socket's file alone says too little.
    const isReady = async () =>
      existsSync(front) &&
      (await runTool(['nbdinfo', '--size', uriOf(front)], { signal: scratch.signal }).then(
        () => true,
        () => false,
      ));
    const pid = await scratch.startDaemon('quorum', command, isReady);
    return {
      name: quorum.name,
      title: quorum.title,
      pids: [...servers.map((server) => server.pid), pid],
      target: nbdTarget(uriOf(front)),
    };
  },
};
