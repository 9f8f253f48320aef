/**
 * The process that writes files for the demo and reads them back: one of its own, because a stalled write occupies a thread of
 * Node's file system pool, which must not hold up the demo itself.
 *
 * Every file is a whole number of blocks with random content, is fsynced before it counts, and is remembered by its SHA-256. Reading back uses
 * O_DIRECT, so that the bytes come from the volume and not from this host's memory.
 *
 * Usage: fork with the directory and the bytes that may be used as arguments, then `WriterRequest` messages.
 */
import { createHash, randomBytes, randomInt } from 'node:crypto';
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { Pace, StallMeter, type Verification, type WorkloadStatus } from './workload.js';

export interface WriterRequest {
  readonly id: number;
  readonly command: 'write' | 'pause' | 'status' | 'resetStall' | 'verify';
}

export interface WriterReply {
  readonly id: number;
  readonly result?: WorkloadStatus | Verification | null;
  readonly error?: string;
}

const BLOCK_BYTES = 4_096;
const WRITERS = 4;
const FILE_BLOCKS_MAX = 256;
const CHUNK_BYTES = 256 * 1_024;
const BYTES_PER_SECOND = 40 * 1_048_576;
const WASM_PAGE_BYTES = 65_536;

interface WrittenFile {
  readonly bytes: number;
  readonly sha256: string;
}

const [directory = '', bytesMax = '0'] = process.argv.slice(2);
/** Half of a file's largest size is what files have on average. */
const filesPerWriter = Math.max(1, Math.floor(Number(bytesMax) / WRITERS / ((FILE_BLOCKS_MAX * BLOCK_BYTES) / 2) / 2));
const files = new Map<string, WrittenFile>();
const meter = new StallMeter();
const pace = new Pace(BYTES_PER_SECOND);
let isWriting = false;
let running: Promise<void>[] = [];
let bytesWritten = 0;
let writes = 0;
let failure = '';

/** Node.js has it; the library that this project compiles against leaves it out. */
declare const WebAssembly: { readonly Memory: new (size: { initial: number }) => { readonly buffer: ArrayBuffer } };

/** Memory whose address is a multiple of the page size, as O_DIRECT wants it. */
function alignedBuffer(bytes: number): Buffer {
  const pages = Math.ceil(bytes / WASM_PAGE_BYTES);
  return Buffer.from(new WebAssembly.Memory({ initial: pages }).buffer, 0, bytes);
}

/** Writes one file's new content, in place when the file exists, and makes it durable. */
async function writeFile(name: string): Promise<void> {
  const content = randomBytes(randomInt(1, FILE_BLOCKS_MAX + 1) * BLOCK_BYTES);
  await pace.take(content.length);
  const path = join(directory, name);
  // While its content is in between, the file is no file to be verified.
  files.delete(name);
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  try {
    for (let at = 0; at < content.length; at += CHUNK_BYTES) {
      const length = Math.min(CHUNK_BYTES, content.length - at);
      await meter.measure(() => handle.write(content, at, length, at));
    }
    await handle.truncate(content.length);
    await meter.measure(() => handle.sync());
  } finally {
    await handle.close();
  }
  files.set(name, { bytes: content.length, sha256: createHash('sha256').update(content).digest('hex') });
  bytesWritten += content.length;
  writes++;
}

async function runWriter(index: number): Promise<void> {
  try {
    while (isWriting) await writeFile(`writer-${index}-file-${writes % filesPerWriter}`);
  } catch (error) {
    isWriting = false;
    failure = `writing failed: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function startWriting(): void {
  if (isWriting) return;
  isWriting = true;
  running = Array.from({ length: WRITERS }, (_, index) => runWriter(index));
}

async function pause(): Promise<void> {
  isWriting = false;
  await Promise.all(running);
}

async function hashOf(handle: FileHandle, bytes: number, buffer: Buffer): Promise<string> {
  const hash = createHash('sha256');
  for (let at = 0; at < bytes;) {
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, bytes - at), at);
    if (bytesRead === 0) break;
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
  return hash.digest('hex');
}

async function verify(): Promise<Verification> {
  const buffer = alignedBuffer(CHUNK_BYTES);
  const mismatches: string[] = [];
  let bytes = 0;
  for (const [name, file] of files) {
    try {
      const handle = await open(join(directory, name), constants.O_RDONLY | constants.O_DIRECT);
      try {
        const { size } = await handle.stat();
        if (size !== file.bytes) mismatches.push(`${name}: ${size} bytes instead of ${file.bytes}`);
        else if ((await hashOf(handle, file.bytes, buffer)) !== file.sha256)
          mismatches.push(`${name}: its bytes differ`);
      } finally {
        await handle.close();
      }
    } catch (error) {
      mismatches.push(`${name}: ${error instanceof Error ? error.message : String(error)}`);
    }
    bytes += file.bytes;
  }
  return { bytes, mismatches };
}

async function answer({ command }: WriterRequest): Promise<WorkloadStatus | Verification | null> {
  switch (command) {
    case 'write':
      startWriting();
      return null;
    case 'pause':
      await pause();
      return null;
    case 'status':
      return { bytesWritten, writes, longestStallMs: meter.longestMs, error: failure };
    case 'resetStall':
      meter.reset();
      return null;
    case 'verify':
      return verify();
  }
}

process.on('message', (request: WriterRequest) => {
  answer(request).then(
    (result) => process.send?.({ id: request.id, result } satisfies WriterReply),
    (error: unknown) => process.send?.({ id: request.id, error: String(error) } satisfies WriterReply),
  );
});
// The demo says when it is over; a terminal's Ctrl-C reaches us too.
process.on('SIGINT', () => undefined);
process.on('disconnect', () => process.exit(0));
