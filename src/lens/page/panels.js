// panels.js: what the lens measured, on canvases of our own: heat maps and bars. docs/report.md has the data's shape.

const SIDE = 150; // pixels left of a heat map, for the names of its rows
const FOOT = 34; // below it, for steps
const BAR = 84; // right of it, for the scale of colours

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Least and greatest value over panels that are to be compared; of the logarithm where they ask for it. */
function panelRange(panels) {
  let low = Infinity;
  let high = -Infinity;
  for (const panel of panels) {
    for (const value of panel.values) {
      if (value === null || (panel.logColour && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return { low: 0, high: 1 };
  return { low, high };
}

function shareOf(value, range, log) {
  if (log && value <= 0) return 0;
  const place = log ? Math.log(value / range.low) / Math.log(range.high / range.low) : (value - range.low) / (range.high - range.low);
  return Number.isFinite(place) ? Math.min(1, Math.max(0, place)) : 0.5;
}

class Panel {
  constructor(panel, range, caption) {
    this.panel = panel;
    this.range = range;
    this.canvas = element("canvas", { class: "panel", tabindex: "0", role: "img", "aria-label": `${panel.title}, ${caption}` });
    this.readout = element("p", { class: "readout", "aria-live": "polite" });
    const about = element("span", { class: "soft" }, panel.about || "");
    this.figure = element("figure", {}, element("figcaption", {}, element("b", {}, `${panel.title} · ${caption}`), about), this.canvas, this.readout);
    this.cursor = null;
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event));
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** Sets the canvas to its size on the screen; returns a context in CSS pixels. */
  begin(height) {
    const ratio = devicePixelRatio || 1;
    this.width = Math.max(240, this.canvas.clientWidth);
    this.height = height;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.fillStyle = cssColour("--soft");
    return context;
  }

  onKey(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const [col, row] = this.cursor || [0, 0];
    this.show(this.cursor ? col + move[0] : 0, this.cursor ? row + move[1] : 0);
  }
}

class HeatMap extends Panel {
  get rows() {
    return this.panel.y.length;
  }
  get cols() {
    return this.panel.x.length;
  }

  draw() {
    const cell = Math.min(22, Math.max(3, 420 / this.rows));
    const tall = Math.round(Math.max(60, Math.min(420, this.rows * cell)));
    const context = this.begin(tall + FOOT + 10);
    const side = this.width < 560 ? 70 : SIDE;
    this.area = { x: side, y: 8, w: this.width - side - BAR, h: tall };
    this.drawCells(context);
    this.drawNames(context);
    this.drawScale(context);
    this.drawMarks(context);
    if (this.cursor) this.drawCursor(context);
  }

  // Where several cells share a pixel the greatest is drawn, so that a lone spike stays visible.
  drawCells(context) {
    const { values } = this.panel;
    const ratio = devicePixelRatio || 1;
    const across = Math.min(this.cols, Math.round(this.area.w * ratio));
    const down = Math.min(this.rows, Math.round(this.area.h * ratio));
    const most = new Float64Array(across * down).fill(NaN);
    for (let r = 0; r < this.rows; r++) {
      const line = Math.floor((r * down) / this.rows) * across;
      for (let c = 0; c < this.cols; c++) {
        const value = values[r * this.cols + c];
        const at = line + Math.floor((c * across) / this.cols);
        if (value !== null && !(value <= most[at])) most[at] = value;
      }
    }
    const image = new ImageData(across, down);
    most.forEach((value, i) => {
      if (Number.isNaN(value)) return;
      const colour = RAMP[Math.round(255 * shareOf(value, this.range, this.panel.logColour))];
      image.data.set([...colour, 255], i * 4);
    });
    const small = element("canvas", { width: across, height: down });
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, this.area.x, this.area.y, this.area.w, this.area.h);
  }

  drawNames(context) {
    const { area, panel } = this;
    const every = Math.ceil(13 / (area.h / this.rows));
    context.textAlign = "right";
    for (let r = 0; r < this.rows; r += every) {
      const y = area.y + ((r + 0.5) * area.h) / this.rows;
      context.fillText(panel.y[r], area.x - 6, y, area.x - 10);
    }
    context.textAlign = "center";
    const count = Math.max(2, Math.min(this.cols, Math.floor(area.w / 90)));
    for (let i = 0; i < count; i++) {
      const c = Math.round((i * (this.cols - 1)) / Math.max(1, count - 1));
      context.fillText(formatCount(panel.x[c]), area.x + ((c + 0.5) * area.w) / this.cols, area.y + area.h + 11);
    }
    context.fillText(panel.xLabel, area.x + area.w / 2, area.y + area.h + 27);
  }

  drawScale(context) {
    const { area, range, panel } = this;
    const x = area.x + area.w + 12;
    for (let i = 0; i < area.h; i++) {
      const [r, g, b] = RAMP[Math.round(255 * (1 - i / (area.h - 1)))];
      context.fillStyle = `rgb(${r}, ${g}, ${b})`;
      context.fillRect(x, area.y + i, 12, 1.5);
    }
    context.fillStyle = cssColour("--soft");
    context.textAlign = "left";
    context.fillText(format(range.high, 3), x + 17, area.y + 6);
    context.fillText(format(range.low, 3), x + 17, area.y + area.h - 6);
    const middle = panel.logColour ? Math.sqrt(range.low * range.high) : (range.low + range.high) / 2;
    if (area.h > 70) context.fillText(format(middle, 3), x + 17, area.y + area.h / 2);
  }

  drawMarks(context) {
    const { area, panel } = this;
    context.fillStyle = cssColour("--mark");
    for (const mark of panel.marks) {
      let c = panel.x.findIndex((x) => x >= mark);
      if (c < 0) c = this.cols - 1;
      const x = area.x + (c * area.w) / this.cols;
      context.fillRect(x - 0.75, area.y - 5, 1.5, area.h + 5);
    }
  }

  drawCursor(context) {
    const [col, row] = this.cursor;
    const { area } = this;
    const w = area.w / this.cols;
    const h = area.h / this.rows;
    context.strokeStyle = cssColour("--mark");
    context.lineWidth = 2;
    context.strokeRect(area.x + col * w - 1, area.y + row * h - 1, Math.max(3, w) + 2, Math.max(3, h) + 2);
  }

  point(event) {
    const col = Math.floor(((event.offsetX - this.area.x) / this.area.w) * this.cols);
    const row = Math.floor(((event.offsetY - this.area.y) / this.area.h) * this.rows);
    if (col >= 0 && col < this.cols && row >= 0 && row < this.rows) this.show(col, row);
  }

  show(col, row) {
    this.cursor = [Math.min(this.cols - 1, Math.max(0, col)), Math.min(this.rows - 1, Math.max(0, row))];
    [col, row] = this.cursor;
    const { panel } = this;
    const value = panel.values[row * this.cols + col];
    const near = panel.marks.includes(panel.x[col]) && panel.markMeaning ? ` · ${panel.markMeaning}` : "";
    const text = value === null ? "not measured" : `${format(value)}${panel.unit ? ` ${panel.unit}` : ""}`;
    this.readout.textContent = `${panel.y[row]}, ${panel.xLabel} ${formatCount(panel.x[col])}: ${text}${near}`;
    this.draw();
  }
}

class Bars extends Panel {
  draw() {
    const { values, names } = this.panel;
    const context = this.begin(240);
    const low = Math.min(0, this.range.low);
    const high = Math.max(0, this.range.high);
    const area = { x: 64, y: 12, w: this.width - 80, h: 240 - 12 - FOOT };
    this.area = area;
    const yOf = (value) => area.y + (1 - (value - low) / (high - low || 1)) * area.h;
    const wide = area.w / values.length;
    values.forEach((value, i) => {
      if (value === null) return;
      context.fillStyle = this.cursor && this.cursor[0] === i ? cssColour("--mark") : cssColour("--accent");
      const top = Math.min(yOf(value), yOf(0));
      context.fillRect(area.x + i * wide + (wide > 4 ? 1 : 0), top, Math.max(1, wide - (wide > 4 ? 2 : 0)), Math.max(1, Math.abs(yOf(value) - yOf(0))));
    });
    context.fillStyle = cssColour("--soft");
    context.fillRect(area.x, yOf(0), area.w, 1);
    context.textAlign = "right";
    context.fillText(format(high, 3), area.x - 6, yOf(high) + 2);
    context.fillText(format(low, 3), area.x - 6, yOf(low) - 2);
    context.textAlign = "center";
    const every = Math.ceil(names.length / Math.max(1, Math.floor(area.w / 74)));
    for (let i = 0; i < names.length; i += every) context.fillText(names[i], area.x + (i + 0.5) * wide, area.y + area.h + 11, 74 * 1.2);
    context.fillText(this.panel.xLabel, area.x + area.w / 2, area.y + area.h + 27);
  }

  point(event) {
    const at = Math.floor(((event.offsetX - this.area.x) / this.area.w) * this.panel.values.length);
    if (at >= 0 && at < this.panel.values.length) this.show(at);
  }

  show(at) {
    this.cursor = [Math.min(this.panel.values.length - 1, Math.max(0, at)), 0];
    const value = this.panel.values[this.cursor[0]];
    const text = value === null ? "not measured" : `${format(value)}${this.panel.unit ? ` ${this.panel.unit}` : ""}`;
    this.readout.textContent = `${this.panel.names[this.cursor[0]]}: ${text}`;
    this.draw();
  }
}

/** Draws the panels of one run, or of all runs (chosen < 0) with those of one title beside each other. */
function drawPanels(runs, chosen, into) {
  const kinds = { "heat map": HeatMap, bars: Bars };
  const titles = [...new Set(runs.flatMap((run) => run.panels.map((panel) => panel.title)))];
  const drawn = [];
  into.textContent = "";
  for (const title of titles) {
    const all = runs.map((run) => run.panels.find((panel) => panel.title === title));
    const range = panelRange(all.filter(Boolean)); // one scale for all runs: colours compare
    all.forEach((panel, run) => {
      if (!panel || (chosen >= 0 && chosen !== run) || !kinds[panel.kind]) return;
      const made = new kinds[panel.kind](panel, range, runs[run].name);
      into.append(made.figure);
      drawn.push(made);
    });
  }
  for (const panel of drawn) panel.draw();
  return drawn;
}
