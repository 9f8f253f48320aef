export interface Random {
  /** Uniform in 0..2^32-1. */
  uint32(): number;
  /** A random (version 4) UUID, lower case. */
  uuid(): string;
}
