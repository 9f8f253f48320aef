/**
 * One engine's shared memory, seen from JavaScript: the event and command arrays and the tables of the slab.
 * The native side and this one touch it in turn, on one thread, so nothing needs a lock.
 */
import { abi, type Addon, type Handle, type Layout } from '../../../native/index.js';
import { assert } from '../../base/assert.js';

const { RECORD_WORDS, COMMANDS_MAX, CONTROL_COMMAND_COUNT, WORD_KIND, WORD_TARGET, EVENTS_MAX } = abi;

export class Shared {
  readonly addon: Addon;
  readonly handle: Handle;
  readonly layout: Layout;
  readonly memory: ArrayBuffer;
  readonly events: Uint32Array;
  readonly commands: Uint32Array;
  readonly control: Uint32Array;
  readonly batchMs: Float64Array;
  /** Payload of NBD replies that waits to be sent, in bytes by slot of the connection. */
  readonly unsent: Uint32Array;
  /** Set when the engine is told to stop: from then on commands are dropped. */
  isStopping = false;

  constructor(addon: Addon, handle: Handle, memory: ArrayBuffer, layout: Layout) {
    this.addon = addon;
    this.handle = handle;
    this.memory = memory;
    this.layout = layout;
    this.events = new Uint32Array(memory, layout.events, EVENTS_MAX * RECORD_WORDS);
    this.commands = new Uint32Array(memory, layout.commands, COMMANDS_MAX * RECORD_WORDS);
    this.control = new Uint32Array(memory, layout.control, abi.CONTROL_WORDS);
    this.batchMs = new Float64Array(memory, layout.control + abi.CONTROL_BATCH_MS * Uint32Array.BYTES_PER_ELEMENT, 1);
    this.unsent = new Uint32Array(memory, layout.unsent, abi.CONNECTION_SLOTS);
  }

  /** Starts a command; returns the index of its first word. All other words are 0. */
  command(kind: number, target: number): number {
    if (this.control[CONTROL_COMMAND_COUNT] === COMMANDS_MAX) this.addon.submit(this.handle);
    const count = this.control[CONTROL_COMMAND_COUNT] as number;
    assert(count < COMMANDS_MAX, 'the engine takes the commands of a full array');
    this.control[CONTROL_COMMAND_COUNT] = count + 1;
    const words = this.commands;
    const at = count * RECORD_WORDS;
    words[at + WORD_KIND] = kind;
    words[at + WORD_TARGET] = target;
    for (let index = at + 2; index < at + RECORD_WORDS; index++) words[index] = 0;
    return at;
  }
}
