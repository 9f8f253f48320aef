/** Block devices of one simulated node: names only, made and removed after a while, as drivers do. They die with their agent. */
import { BraidError } from '../../../daemon/base/errors.js';
import { sleep, type Clock } from '../../../daemon/ports/clock.js';
import type { DeviceAttacher } from '../../../daemon/ports/device.js';
import type { SimRandom } from './sim-random.js';

const DELAY_MS_MIN = 2;
const DELAY_MS_MAX = 40;

export class SimDevices implements DeviceAttacher {
  readonly #clock: Clock;
  readonly #random: SimRandom;
  readonly #attached = new Map<string, string>();
  /** Volumes whose device is mounted. */
  readonly inUse = new Set<string>();
  onDied: (volumeName: string, reason: string) => void = () => undefined;

  constructor(clock: Clock, random: SimRandom) {
    this.#clock = clock;
    this.#random = random;
  }

  async attach(volumeName: string): Promise<{ readonly device: string }> {
    await this.#pause();
    const device = `/dev/sim-${volumeName}`;
    this.#attached.set(volumeName, device);
    return { device };
  }

  async detach(volumeName: string, { force }: { readonly force: boolean }): Promise<void> {
    await this.#pause();
    if (this.inUse.has(volumeName) && !force) {
      throw new BraidError('CONFLICT', `the device of ${volumeName} is mounted: unmount it, or detach with force`);
    }
    this.#attached.delete(volumeName);
  }

  async cleanup(): Promise<void> {
    await this.#pause();
  }

  /** The driver of the volume's device ends by itself. */
  die(volumeName: string): void {
    if (this.#attached.delete(volumeName)) this.onDied(volumeName, 'its driver ended');
  }

  #pause(): Promise<void> {
    return sleep(this.#clock, this.#random.between(DELAY_MS_MIN, DELAY_MS_MAX));
  }
}
