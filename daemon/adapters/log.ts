/** pino behind the `Log` port: JSON lines on standard output, errors under `err` with their stack and cause. */
import { pino, type DestinationStream, type Level, type Logger } from 'pino';
import type { Log } from '../ports/log.js';

class PinoLog implements Log {
  readonly #logger: Logger;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  debug(fields: object, message: string): void {
    this.#logger.debug(fields, message);
  }

  info(fields: object, message: string): void {
    this.#logger.info(fields, message);
  }

  warn(fields: object, message: string): void {
    this.#logger.warn(fields, message);
  }

  error(fields: object, message: string): void {
    this.#logger.error(fields, message);
  }

  child(fields: object): Log {
    return new PinoLog(this.#logger.child(fields));
  }
}

/** `destination` is standard output unless given. Everything below `level` is dropped. */
export function createLog(level: Level, destination?: DestinationStream): Log {
  const options = { level, base: null, timestamp: pino.stdTimeFunctions.isoTime };
  return new PinoLog(destination === undefined ? pino(options) : pino(options, destination));
}
