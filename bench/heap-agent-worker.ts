/**
 * `braidd` with V8 reporting every garbage collection on stdout (`--trace-gc-nvp`), for the count of bytes allocated per I/O.
 * The young generation is kept small, so that what was allocated since the last collection, and is not reported yet, is little.
 *
 * The first collection reported is one of the main thread: by it the reader tells the threads' heaps apart.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--max-semi-space-size=1');
setFlagsFromString('--trace-gc-nvp');
setFlagsFromString('--expose-gc');
(runInNewContext('gc') as () => void)();

await import('../daemon/main.js');
