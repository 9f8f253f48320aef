/** Blocks of the volume itself, written and read over NBD: the demo without root. */
import { createHash, randomBytes, randomInt } from 'node:crypto';
import { NbdClient } from '../nbd-client.js';
import { Pace, StallMeter, type Verification, type Workload, type WorkloadStatus } from './workload.js';

const CHUNK_BYTES = 64 * 1_024;
const WRITERS = 8;
const BYTES_PER_SECOND = 40 * 1_048_576;

const digestOf = (data: Uint8Array) => createHash('sha256').update(data).digest('base64');

/** Each chunk of the volume has at most one write under way, so what it must hold is known at any time. */
export class NbdWorkload implements Workload {
  readonly #uri: string;
  readonly #chunkCount: number;
  readonly #digests = new Map<number, string>();
  readonly #busy = new Set<number>();
  readonly #meter = new StallMeter();
  readonly #pace = new Pace(BYTES_PER_SECOND);
  #client: NbdClient | null = null;
  #isWriting = false;
  #running: Promise<void>[] = [];
  #bytesWritten = 0;
  #writes = 0;
  #failure = '';

  constructor(uri: string, bytesMax: number) {
    this.#uri = uri;
    this.#chunkCount = Math.floor(bytesMax / CHUNK_BYTES);
  }

  async write(): Promise<void> {
    if (this.#isWriting) return;
    const client = await this.#connected();
    this.#isWriting = true;
    this.#running = Array.from({ length: WRITERS }, () => this.#runWriter(client));
  }

  async pause(): Promise<void> {
    this.#isWriting = false;
    await Promise.all(this.#running);
  }

  async status(): Promise<WorkloadStatus> {
    const [bytesWritten, writes] = [this.#bytesWritten, this.#writes];
    return { bytesWritten, writes, longestStallMs: this.#meter.longestMs, error: this.#failure };
  }

  async resetStall(): Promise<void> {
    this.#meter.reset();
  }

  async verify(): Promise<Verification> {
    const client = await this.#connected();
    const mismatches: string[] = [];
    const chunks = this.#digests.entries();
    const verifyChunks = async () => {
      for (const [chunk, digest] of chunks) {
        const at = chunk * CHUNK_BYTES;
        const data = await client.read(at, CHUNK_BYTES);
        if (digestOf(data) !== digest) mismatches.push(`offset ${at}: its bytes differ`);
      }
    };
    await Promise.all(Array.from({ length: WRITERS }, verifyChunks));
    return { bytes: this.#digests.size * CHUNK_BYTES, mismatches };
  }

  async disconnect(): Promise<void> {
    await this.pause();
    await this.#client?.close();
    this.#client = null;
  }

  async stop(): Promise<void> {
    this.#isWriting = false;
    await this.#client?.close();
    await Promise.all(this.#running);
    this.#client = null;
  }

  async #connected(): Promise<NbdClient> {
    this.#client ??= await NbdClient.connectUri(this.#uri);
    return this.#client;
  }

  async #runWriter(client: NbdClient): Promise<void> {
    try {
      while (this.#isWriting) await this.#writeOne(client);
    } catch (error) {
      if (!this.#isWriting) return;
      this.#isWriting = false;
      this.#failure = `writing failed: ${error instanceof Error ? error.message : String(error)}`;
    }
  }

  async #writeOne(client: NbdClient): Promise<void> {
    const chunk = randomInt(this.#chunkCount);
    if (this.#busy.has(chunk)) return new Promise((resolve) => setImmediate(resolve));
    this.#busy.add(chunk);
    try {
      await this.#pace.take(CHUNK_BYTES);
      const data = randomBytes(CHUNK_BYTES);
      this.#digests.delete(chunk);
      await this.#meter.measure(() => client.write(chunk * CHUNK_BYTES, data, { fua: true }));
      this.#digests.set(chunk, digestOf(data));
      this.#bytesWritten += CHUNK_BYTES;
      this.#writes++;
    } finally {
      this.#busy.delete(chunk);
    }
  }
}
