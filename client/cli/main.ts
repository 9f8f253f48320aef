#!/usr/bin/env node
/** Entry of the `braid` command. */
import { createInterface } from 'node:readline/promises';
import { runCli } from './program.js';

const interruption = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => interruption.abort());
// A reader that has seen enough (`braid events | head`) ends us quietly.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));

async function ask(question: string): Promise<string> {
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  try {
    return await terminal.question(question, { signal: interruption.signal });
  } finally {
    terminal.close();
  }
}

const { stdin, stdout, stderr, env } = process;
process.exitCode = await runCli(process.argv.slice(2), {
  ...{ stdout, stderr, env, signal: interruption.signal },
  ...(stdin.isTTY && stdout.isTTY ? { ask } : {}),
});
