// Line plots as SVG, with every colour written into them, so that they look the same in the page, a PNG and a file.

const VARIANT_COLOURS = { light: ["#0f766e", "#c2410c", "#6d28d9", "#0369a1"], dark: ["#2dd4bf", "#fb923c", "#a78bfa", "#38bdf8"] };
const PLOT = { width: 560, height: 210, left: 52, right: 12, top: 30, bottom: 26 };

// Round numbers from 0 or just below the lowest value to just above the highest.
function plotTicks(low, high) {
  const rough = (high - low || Math.abs(high) || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.floor(low / step) * step;
  const ticks = [];
  for (let value = first; value < high + step * 0.999; value += step) ticks.push(Number(value.toPrecision(10)));
  return ticks;
}

function escaped(text) {
  return String(text).replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);
}

// `series`: {name, colour, points: [[x, y], ...]}; the text is in `ink`.
function plotSvg({ title, series, end, ink, zero = true, limit = null, nothing }) {
  const { width, height, left, right, top, bottom } = PLOT;
  const values = series.flatMap(({ points }) => points.map(([, y]) => y)).filter((y) => y !== null);
  const text = (x, y, words, more = "") => `<text x="${x}" y="${y}" fill="${ink}" font-family="system-ui, sans-serif" font-size="12" ${more}>${escaped(words)}</text>`;
  const head = text(left, 17, title, 'font-weight="600"');
  const open = `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escaped(title)}" data-left="${left}" data-wide="${width - left - right}">`;
  if (!values.length) return `${open}${head}${text(left, height / 2, nothing)}</svg>`;
  const ticks = plotTicks(zero ? Math.min(0, ...values) : Math.min(...values), Math.max(...values, ...(limit === null ? [] : [limit])));
  const [low, high] = [ticks[0], ticks.at(-1)];
  const x = (value) => left + ((width - left - right) * value) / end;
  const y = (value) => height - bottom - ((height - top - bottom) * (value - low)) / (high - low || 1);
  const line = (from, to, more) => `<line x1="${from[0]}" y1="${from[1]}" x2="${to[0]}" y2="${to[1]}" stroke="${ink}" ${more}/>`;
  const grid = ticks.map((value) => line([left, y(value)], [width - right, y(value)], 'opacity=".14"') + text(left - 6, y(value) + 4, value, 'text-anchor="end" opacity=".75"'));
  const times = plotTicks(0, end).filter((value) => value <= end * 1.001);
  const below = times.map((value) => text(x(value), height - 8, `${value} s`, `text-anchor="${value ? "middle" : "start"}" opacity=".75"`));
  const lines = series.map(({ name, colour, points }) => {
    const known = points.filter(([, value]) => value !== null);
    const path = known.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    const dots = known.length > 4 ? [] : known.map(([at, value]) => `<circle cx="${x(at).toFixed(1)}" cy="${y(value).toFixed(1)}" r="3.5" fill="${colour}"/>`); // a line of one point is none
    return `<polyline fill="none" stroke="${colour}" stroke-width="2" stroke-linejoin="round" points="${path}"><title>${escaped(name)}</title></polyline>${dots.join("")}`;
  });
  const key = series.map(({ name, colour }, i) => {
    const at = width - right - 34 * (series.length - i);
    return `<rect x="${at}" y="8" width="12" height="12" rx="3" fill="${colour}"/>${text(at + 16, 18, name)}`;
  });
  const marked = limit === null ? "" : line([left, y(limit)], [width - right, y(limit)], 'opacity=".5" stroke-dasharray="5 4"');
  return [open, head, ...key, ...grid, ...below, marked, ...lines, "</svg>"].join("");
}

// The middle, or any other share, of some numbers.
function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : null;
}

function saveFile(name, blob) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// An SVG of the page as a picture that a canvas can draw.
async function svgPicture(svg) {
  const { width, height } = PLOT;
  const copy = svg.cloneNode(true);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  const picture = new Image(width, height);
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  await picture.decode();
  return picture;
}
