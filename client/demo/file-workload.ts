/** Files on the mounted file system, written by `writer-worker.ts` in a process of its own. */
import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Verification, Workload, WorkloadStatus } from './workload.js';
import type { WriterReply, WriterRequest } from './writer-worker.js';

const PROGRAM = fileURLToPath(new URL('./writer-worker.js', import.meta.url));
/** Each of the writers may have a call in flight, and one reads. */
const THREADS = 16;

interface Waiting {
  readonly resolve: (result: WriterReply['result']) => void;
  readonly reject: (error: Error) => void;
}

export class FileWorkload implements Workload {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, Waiting>();
  #id = 0;

  constructor(directory: string, bytesMax: number) {
    const env = { ...process.env, UV_THREADPOOL_SIZE: String(THREADS) };
    this.#child = fork(PROGRAM, [directory, String(bytesMax)], { env, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    this.#child.on('message', (reply: WriterReply) => this.#onReply(reply));
    this.#child.on('exit', () => this.#onExit());
  }

  async write(): Promise<void> {
    await this.#ask('write');
  }

  async pause(): Promise<void> {
    await this.#ask('pause');
  }

  async status(): Promise<WorkloadStatus> {
    return (await this.#ask('status')) as WorkloadStatus;
  }

  async resetStall(): Promise<void> {
    await this.#ask('resetStall');
  }

  async verify(): Promise<Verification> {
    return (await this.#ask('verify')) as Verification;
  }

  /** Between operations no file is open: the file system can be unmounted. */
  async disconnect(): Promise<void> {
    await this.pause();
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = new Promise((resolve) => this.#child.on('exit', resolve));
    this.#child.kill('SIGKILL');
    await exited;
  }

  #ask(command: WriterRequest['command']): Promise<WriterReply['result']> {
    const id = ++this.#id;
    return new Promise((resolve, reject) => {
      if (!this.#child.connected) return reject(new Error('the writer process has ended'));
      this.#waiting.set(id, { resolve, reject });
      this.#child.send({ id, command } satisfies WriterRequest);
    });
  }

  #onReply({ id, result, error }: WriterReply): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error === undefined) waiting?.resolve(result);
    else waiting?.reject(new Error(error));
  }

  #onExit(): void {
    for (const { reject } of this.#waiting.values()) reject(new Error('the writer process has ended'));
    this.#waiting.clear();
  }
}
