// panels.js: what was measured, on canvases of our own: heat maps and bars. docs/report.md has the data's shape.

const FOOT = 34; // pixels below a map, for steps
const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// ---- cells

const SCALED = { linear: (v) => v, log: Math.log, asinh: Math.asinh };
const UNSCALED = { linear: (v) => v, log: Math.exp, asinh: Math.sinh };

/** The values of a heat map, row by row; NaN = not measured. Decoded when first looked at. */
function valuesOf(panel) {
  if (panel.values) return panel.values;
  const text = atob(panel.cells);
  const wide = panel.bits === 16;
  const count = wide ? text.length >> 1 : text.length;
  const first = panel.colours === "log" ? 2 : 1;
  const perCode = (panel.high - panel.low) / ((wide ? 65535 : 255) - first);
  const back = UNSCALED[panel.colours];
  panel.values = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const code = wide ? text.charCodeAt(2 * i) | (text.charCodeAt(2 * i + 1) << 8) : text.charCodeAt(i);
    panel.values[i] = code >= first ? back(panel.low + (code - first) * perCode) : code === 1 ? 0 : NaN;
  }
  delete panel.cells;
  return panel.values;
}

const rowCount = (panel) => (typeof panel.y[0] === "number" ? panel.y[1] : panel.y.length);

/** Rows that are numbers travel as [step between rows, rows]. */
function rowName(panel, row) {
  if (typeof panel.y[0] !== "number") return panel.y[row];
  const [every] = panel.y;
  return every === 1 ? `${row}` : `${row * every}–${(row + 1) * every - 1}`;
}

/** Least and greatest scaled value over maps that are compared: one scale of colours for all. */
function rangeOf(panels) {
  const low = Math.max(panels[0].floor ?? -Infinity, Math.min(...panels.map((panel) => panel.low)));
  const high = Math.max(low, ...panels.map((panel) => panel.high));
  return { low, high, colours: panels[0].colours };
}

/** 0 .. 1 */
function shareOf(value, range) {
  if (range.colours === "log" && value <= 0) return 0;
  const share = (SCALED[range.colours](value) - range.low) / (range.high - range.low);
  return Number.isFinite(share) ? Math.min(1, Math.max(0, share)) : 0.5;
}

const valueAtShare = (share, range) => UNSCALED[range.colours](range.low + share * (range.high - range.low));

function valueText(value, panel) {
  if (value === null || Number.isNaN(value)) return "not measured";
  return `${format(value, panel.bits === 8 ? 2 : 3)}${panel.unit ? ` ${panel.unit}` : ""}`;
}

// ---- canvases

/** Sets a canvas to its size on the screen; returns a context in CSS pixels. */
function beginCanvas(canvas, height) {
  const ratio = devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  const width = Math.max(200, canvas.clientWidth);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = FONT;
  context.textBaseline = "middle";
  context.fillStyle = cssColour("--soft");
  return { context, width };
}

/** Shortens a text until it fits. */
function fitText(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let kept = text;
  while (kept.length > 1 && context.measureText(`…${kept}`).width > width) kept = kept.slice(1);
  return `…${kept}`;
}

/**
 * Which rows of a map so tall have room for their names, and where: where there are too many, the first row of each group
 * (a layer, a kind of module), then of every second group and so on; rows without groups keep an even distance.
 */
function labelledRows(rows, tall) {
  const line = 15;
  const placed = rows.map((row, r) => ({ ...row, y: ((r + 0.5) * tall) / rows.length }));
  if (rows.length * line <= tall) return placed;
  const firsts = placed.filter((row, r) => r === 0 || row.group !== placed[r - 1].group);
  const kept = [];
  for (const row of firsts.length > 1 ? firsts : placed) {
    if (!kept.length || row.y - kept[kept.length - 1].y >= line) kept.push(row);
  }
  return kept;
}

/**
 * One heat map. rows: [{name, label, row}] from top to bottom, row -1 where this run has none of that name;
 * onPoint(name, x) is told where the reader points.
 */
class HeatMap {
  constructor(panel, range, rows, caption, onPoint) {
    Object.assign(this, { panel, range, rows, onPoint });
    this.cols = panel.x.length;
    this.cursor = null; // [col, row]
    this.canvas = element("canvas", { class: "panel", tabindex: "0", role: "img", "aria-label": `${panel.title}, ${caption.text}; arrow keys move a cursor, the line above the maps reads it` });
    this.figure = element("figure", {}, element("figcaption", {}, caption.node), this.canvas);
    for (const name of ["pointermove", "pointerdown"]) this.canvas.addEventListener(name, (event) => this.point(event));
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  value(col, row) {
    const at = this.rows[row].row;
    return at < 0 ? NaN : valuesOf(this.panel)[at * this.cols + col];
  }

  draw() {
    const count = this.rows.length;
    const tall = Math.round(count <= 48 ? Math.max(96, count * 15) : Math.min(460, Math.max(320, count)));
    const { context, width } = beginCanvas(this.canvas, tall + FOOT + 12);
    const widest = Math.max(...this.rows.map((row) => context.measureText(row.label).width));
    const side = Math.ceil(Math.min(widest + 14, width * 0.42));
    this.area = { x: side, y: 10, w: width - side - 12, h: tall };
    this.drawCells(context);
    this.drawGroups(context);
    this.drawNames(context, side);
    this.drawMarks(context);
    if (this.cursor) this.drawCursor(context);
  }

  // Where several cells share a pixel the worst is drawn, so that a lone spike stays visible.
  drawCells(context) {
    const { area, cols, rows, range, panel } = this;
    const ratio = devicePixelRatio || 1;
    const across = Math.min(cols, Math.round(area.w * ratio));
    const down = Math.min(rows.length, Math.round(area.h * ratio));
    const worst = new Float64Array(across * down).fill(NaN);
    const values = valuesOf(panel);
    rows.forEach(({ row }, r) => {
      const line = Math.floor((r * down) / rows.length) * across;
      for (let c = 0; c < cols && row >= 0; c++) {
        const value = values[row * cols + c];
        const at = line + Math.floor((c * across) / cols);
        if (Number.isNaN(worst[at]) || (panel.lowIsBad ? value < worst[at] : value > worst[at])) worst[at] = value;
      }
    });
    const image = new ImageData(across, down);
    worst.forEach((value, i) => {
      if (!Number.isNaN(value)) image.data.set([...RAMP[Math.round(255 * shareOf(value, range))], 255], i * 4);
    });
    const small = element("canvas", { width: across, height: down });
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, area.x, area.y, area.w, area.h);
  }

  // A thin line where a group of rows (a layer, a kind of module) ends.
  drawGroups(context) {
    const { area, rows } = this;
    context.fillStyle = cssColour("--card");
    for (let r = 1; r < rows.length; r++) {
      if (rows[r].group === rows[r - 1].group) continue;
      context.fillRect(area.x, area.y + (r * area.h) / rows.length - 0.75, area.w, 1.5);
    }
  }

  drawNames(context, side) {
    const { area, panel, rows, cols } = this;
    context.fillStyle = cssColour("--soft");
    context.textAlign = "right";
    this.labels = labelledRows(rows, area.h);
    for (const { label, y } of this.labels) context.fillText(fitText(context, label, side - 8), area.x - 6, area.y + y);
    const stride = Math.max(1, Math.ceil((64 * cols) / area.w));
    context.textAlign = "center";
    for (let c = 0; c < cols; c += stride) {
      context.fillText(formatCount(panel.x[c]), area.x + ((c + 0.5) * area.w) / cols, area.y + area.h + 11);
    }
    context.textAlign = "center";
    context.fillText(panel.xLabel, area.x + area.w / 2, area.y + area.h + 25);
    if (panel.yLabel !== "module") {
      context.textAlign = "left";
      context.fillText(panel.yLabel, 4, area.y + area.h + 25);
    }
  }

  drawMarks(context) {
    const { area, panel } = this;
    context.fillStyle = cssColour("--mark");
    for (const mark of panel.marks) {
      let c = panel.x.findIndex((x) => x > mark);
      if (c < 0) c = this.cols;
      const x = area.x + (c * area.w) / this.cols;
      context.fillRect(x - 1, area.y - 3, 2, area.h + 3);
      context.beginPath();
      context.moveTo(x - 5, area.y - 9);
      context.lineTo(x + 5, area.y - 9);
      context.lineTo(x, area.y - 2);
      context.fill();
    }
  }

  drawCursor(context) {
    const [col, row] = this.cursor;
    const { area } = this;
    const w = area.w / this.cols;
    const h = area.h / this.rows.length;
    context.strokeStyle = cssColour("--mark");
    context.lineWidth = 2;
    context.strokeRect(area.x + col * w - 1, area.y + row * h - 1, Math.max(3, w) + 2, Math.max(3, h) + 2);
  }

  point(event) {
    const col = Math.floor(((event.offsetX - this.area.x) / this.area.w) * this.cols);
    const row = Math.floor(((event.offsetY - this.area.y) / this.area.h) * this.rows.length);
    if (col >= 0 && col < this.cols && row >= 0 && row < this.rows.length) this.onPoint(this.rows[row].name, this.panel.x[col]);
  }

  onKey(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const [col, row] = this.cursor || [-move[0], -move[1]];
    const clamp = (value, count) => Math.min(count - 1, Math.max(0, value));
    this.onPoint(this.rows[clamp(row + move[1], this.rows.length)].name, this.panel.x[clamp(col + move[0], this.cols)]);
  }

  /** Puts the cursor on a row and the column that holds x; returns what is there as text. */
  show(name, x) {
    const row = this.rows.findIndex((r) => r.name === name);
    let col = this.panel.x.findIndex((start) => start > x);
    col = (col < 0 ? this.cols : col) - 1;
    this.cursor = row < 0 || col < 0 ? null : [col, row];
    this.draw();
    return this.cursor ? valueText(this.value(col, row), this.panel) : "not measured";
  }
}

/** Numbers with names, one bar each, from top to bottom. */
class Bars {
  constructor(panel, caption, range) {
    Object.assign(this, { panel, range });
    const list = panel.names.map((name, i) => `${name} ${valueText(panel.values[i], panel)}`).join(", ");
    this.canvas = element("canvas", { class: "panel", role: "img", "aria-label": `${panel.title}: ${list}` });
    this.figure = element("figure", {}, element("figcaption", {}, caption.node), this.canvas);
  }

  draw() {
    const { panel } = this;
    const { context, width } = beginCanvas(this.canvas, 20 * panel.names.length + 34);
    const side = Math.ceil(Math.min(Math.max(...panel.names.map((name) => context.measureText(name).width)) + 14, width * 0.45));
    const room = 64;
    const { low, high } = this.range;
    const xOf = (value) => side + ((value - low) / (high - low || 1)) * (width - side - room);
    panel.names.forEach((name, i) => {
      const y = 20 * i + 8;
      const value = panel.values[i];
      context.fillStyle = cssColour("--soft");
      context.textAlign = "right";
      context.fillText(fitText(context, name, side - 10), side - 8, y + 9);
      context.textAlign = "left";
      context.fillText(value === null ? "–" : format(value, 3), (value === null ? xOf(0) : Math.max(xOf(0), xOf(value))) + 6, y + 9);
      if (value === null) return;
      context.fillStyle = cssColour("--accent");
      context.fillRect(Math.min(xOf(0), xOf(value)), y + 2, Math.max(1, Math.abs(xOf(value) - xOf(0))), 14);
    });
    context.fillStyle = cssColour("--line");
    context.fillRect(xOf(0) - 0.5, 6, 1, 20 * panel.names.length);
    context.fillStyle = cssColour("--soft");
    context.textAlign = "center";
    context.fillText(`${panel.xLabel}${panel.unit ? `, ${panel.unit}` : ""}`, (side + width - room) / 2, 20 * panel.names.length + 22);
  }
}
