/** A process of the runner: runs the seeds that it is told, one after the other. */
import { runScenario } from './scenario.js';
import { summaryOf } from './runner.js';

// Who presses Ctrl-C wants the runner's last line: it ends its workers when they are done.
process.on('SIGINT', () => undefined);
process.on('message', ({ seed, operations }: { seed: number; operations: number }) => {
  void runScenario({ seed, operations, only: null, isTraced: false }).then((result) => {
    process.send?.(summaryOf(result));
  });
});
