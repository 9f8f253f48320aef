/** Where commands write. Machine output goes to stdout alone; colours, progress and live views only to terminals. */

export interface Stream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export type Color = 'green' | 'yellow' | 'red' | 'bold' | 'dim';
const CODES: Record<Color, number> = { green: 32, yellow: 33, red: 31, bold: 1, dim: 2 };
const BAR_CELLS = 30;
/** With a unit, perhaps; not a version and not an id. */
const NUMBER = /^(\d+(,\d{3})*(\.\d+)?( \S+)?|-)$/;
const ESCAPES = new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m`, 'g');

/** Columns on the screen, colour escapes not counted. */
const widthOf = (text: string) => [...text.replace(ESCAPES, '')].length;

export class Output {
  readonly stdout: Stream;
  readonly stderr: Stream;
  readonly isJson: boolean;
  readonly #isColored: boolean;

  constructor(streams: { stdout: Stream; stderr: Stream }, options: { json: boolean; noColor: boolean }) {
    this.stdout = streams.stdout;
    this.stderr = streams.stderr;
    this.isJson = options.json;
    this.#isColored = streams.stdout.isTTY === true && !options.noColor;
  }

  /** Somebody watches: progress makes sense. */
  get isLive(): boolean {
    return !this.isJson && this.stdout.isTTY === true;
  }

  /** With `--json` prints `value` on one line, else what `print` prints. */
  result(value: unknown, print: () => void): void {
    if (this.isJson) this.stdout.write(`${JSON.stringify(value)}\n`);
    else print();
  }

  line(text = ''): void {
    if (!this.isJson) this.stdout.write(`${text}\n`);
  }

  paint(text: string, color: Color): string {
    return this.#isColored ? `\u001b[${CODES[color]}m${text}\u001b[0m` : text;
  }

  /** Columns padded to their widest cell; numbers to the right. */
  table(header: readonly string[], rows: readonly (readonly string[])[]): void {
    for (const line of this.tableLines(header, rows)) this.line(line);
  }

  tableLines(header: readonly string[], rows: readonly (readonly string[])[]): string[] {
    const widths = header.map((title, column) =>
      Math.max(...[title, ...rows.map((row) => row[column] ?? '')].map(widthOf)),
    );
    const isNumber = header.map((_, column) => rows.length > 0 && rows.every((row) => NUMBER.test(row[column] ?? '')));
    const pad = (cell: string, column: number) => {
      const space = ' '.repeat((widths[column] ?? 0) - widthOf(cell));
      return isNumber[column] === true ? space + cell : cell + space;
    };
    const join = (cells: readonly string[]) => cells.map(pad).join('  ').trimEnd();
    return [this.paint(join(header), 'dim'), ...rows.map(join)];
  }

  /** Label and value, aligned. */
  facts(facts: readonly (readonly [label: string, value: string])[]): void {
    const width = Math.max(...facts.map(([label]) => label.length));
    for (const [label, value] of facts) this.line(`${this.paint(label.padEnd(width), 'dim')}  ${value}`);
  }

  /** Redraws one line of progress on a terminal; elsewhere nothing. */
  progress(label: string, fraction: number, detail = ''): void {
    if (!this.isLive) return;
    const done = Math.round(Math.min(1, Math.max(0, fraction)) * BAR_CELLS);
    const bar = '█'.repeat(done) + '░'.repeat(BAR_CELLS - done);
    this.stdout.write(`\r\u001b[K${label} ${bar} ${Math.floor(fraction * 100)} % ${detail}`);
  }

  /** Takes the progress line away. */
  endProgress(): void {
    if (this.isLive) this.stdout.write('\r\u001b[K');
  }
}
