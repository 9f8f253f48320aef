/** A preallocated file, O_DIRECT through io_uring: what the drive and its file system give. */
import { fileTarget } from '../fio.js';
import type { SubjectRecipe } from './subject.js';
import { runTool } from './tools.js';

export const raw: SubjectRecipe = {
  name: 'raw',
  title: 'raw file',
  packages: { fio: 'fio' },
  volumes: 1,
  start: async ({ scratch, volumeBytes }) => {
    const path = scratch.path('raw.img');
    await runTool(['fallocate', '--length', String(volumeBytes), path], { signal: scratch.signal });
    return { name: raw.name, title: raw.title, pids: [], target: fileTarget(path) };
  },
};
