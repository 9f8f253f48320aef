/** The operating system's generator behind the `Random` port. */
import { randomBytes, randomUUID } from 'node:crypto';
import type { Random } from '../ports/random.js';

export class SystemRandom implements Random {
  uint32(): number {
    return randomBytes(4).readUInt32LE();
  }

  uuid(): string {
    return randomUUID();
  }
}
