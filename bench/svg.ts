/** A bar chart as SVG text: a panel for each column, a bar for each subject, each panel on its own scale from zero. */

export interface ChartBar {
  readonly label: string;
  readonly value: number;
}

export interface ChartPanel {
  readonly title: string;
  readonly unit: string;
  readonly bars: readonly ChartBar[];
}

// All in pixels.
const PANEL_WIDTH = 390;
const PANELS_PER_ROW = 3;
const MARGIN = 24;
const HEADER = 64;
const TITLE_HEIGHT = 30;
const BAR_HEIGHT = 20;
const BAR_GAP = 8;
const LABEL_WIDTH = 164;
const VALUE_WIDTH = 70;
const COLORS = ['#8a8f98', '#d08a3c', '#b4555a', '#1f7a8c', '#5fa8b5', '#7a5ea8', '#4f8a4f'];

const escape = (text: string) => text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);

export function barChart(title: string, subtitle: string, panels: readonly ChartPanel[]): string {
  const barsMax = Math.max(0, ...panels.map(({ bars }) => bars.length));
  const panelHeight = TITLE_HEIGHT + barsMax * (BAR_HEIGHT + BAR_GAP) + MARGIN;
  const rows = Math.ceil(panels.length / PANELS_PER_ROW);
  const [width, height] = [2 * MARGIN + PANELS_PER_ROW * PANEL_WIDTH, HEADER + rows * panelHeight + MARGIN];
  const body = panels.map((panel, index) => {
    const x = MARGIN + (index % PANELS_PER_ROW) * PANEL_WIDTH;
    const y = HEADER + Math.floor(index / PANELS_PER_ROW) * panelHeight;
    return `<g transform="translate(${x} ${y})">${panelBody(panel)}</g>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12" fill="#22262b">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="${MARGIN}" y="28" font-size="18" font-weight="600">${escape(title)}</text>
<text x="${MARGIN}" y="48" fill="#5c636b">${escape(subtitle)}</text>
${body.join('\n')}
</svg>
`;
}

function panelBody({ title, unit, bars }: ChartPanel): string {
  const scale = (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH - MARGIN) / Math.max(1, ...bars.map(({ value }) => value));
  const lines = bars.map(({ label, value }, index) => {
    const y = TITLE_HEIGHT + index * (BAR_HEIGHT + BAR_GAP);
    const [middle, width] = [y + BAR_HEIGHT / 2 + 4, Math.max(1, value * scale)];
    const number = Math.round(value).toLocaleString('en-US');
    return [
      `<text x="${LABEL_WIDTH - 8}" y="${middle}" text-anchor="end">${escape(label)}</text>`,
      `<rect x="${LABEL_WIDTH}" y="${y}" width="${width.toFixed(1)}" height="${BAR_HEIGHT}" rx="2" fill="${COLORS[index % COLORS.length]}"/>`,
      `<text x="${(LABEL_WIDTH + width + 6).toFixed(1)}" y="${middle}">${number}</text>`,
    ].join('');
  });
  const head = `<text x="0" y="16" font-weight="600">${escape(title)}<tspan fill="#5c636b" font-weight="400"> ${escape(unit)}</tspan></text>`;
  return head + lines.join('');
}
