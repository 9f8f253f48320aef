/** Runs the small programs of the system (losetup, umount, fusermount3) that device attachment is made of. */
import { execFile } from 'node:child_process';
import { BraidError, asError } from '../base/errors.js';

const TOOL_TIMEOUT_MS = 20_000;

/** Which Debian package brings each program. */
const PACKAGE_OF: Record<string, string> = {
  nbdfuse: 'libnbd-bin',
  fusermount3: 'fuse3',
  losetup: 'mount',
  umount: 'mount',
  mknod: 'coreutils',
};

export interface ToolResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The error for a program that this host lacks; names the package and how to install it. */
export function missingTool(program: string, cause?: unknown): BraidError {
  const name = PACKAGE_OF[program] ?? program;
  return new BraidError(
    'UNSUPPORTED',
    `device attach needs ${program}, which this host lacks; install Debian's package ${name} ` +
      `(apt-get install -y --no-install-recommends ${name}) and attach again, or attach without a device and use the NBD URI`,
    { cause },
  );
}

/** Runs a program to its end. Rejects only when it is missing or hangs; a failure is in `code`. */
export function runTool(program: string, args: readonly string[]): Promise<ToolResult> {
  const options = { timeout: TOOL_TIMEOUT_MS, env: { ...process.env, LC_ALL: 'C', PATH: toolPath() } };
  return new Promise((resolve, reject) => {
    execFile(program, args, options, (error, stdout, stderr) => {
      if (error === null) return resolve({ code: 0, stdout: stdout.trim(), stderr: stderr.trim() });
      if (error.code === 'ENOENT') return reject(missingTool(program, error));
      if (error.killed === true) {
        return reject(new BraidError('TIMEOUT', `${program} ${args.join(' ')} did not end in ${TOOL_TIMEOUT_MS} ms`));
      }
      const code = typeof error.code === 'number' ? error.code : 1;
      return resolve({ code, stdout: stdout.trim(), stderr: stderr.trim() || asError(error).message });
    });
  });
}

/** The system's programs live in sbin directories, which a service's PATH may lack. */
export function toolPath(): string {
  return `${process.env['PATH'] ?? '/usr/bin:/bin'}:/usr/sbin:/sbin`;
}
