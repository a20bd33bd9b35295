// charts.js: curves over steps, drawn by Dygraphs. All charts of the page share one window of steps.

const charts = []; // every RunChart
let sharedWindow = null; // [first, last] step that is shown; null = the whole run

function setWindow(range) {
  sharedWindow = range;
  for (const chart of charts) chart.showWindow();
}

function wholeRange() {
  const ends = charts.filter((c) => c.dygraph).map((c) => c.dygraph.xAxisExtremes());
  return [Math.min(...ends.map((e) => e[0])), Math.max(...ends.map((e) => e[1]))];
}

/** factor < 1 zooms in around the middle; shift moves by a share of the window. */
function moveWindow(factor, shift = 0) {
  const whole = wholeRange();
  const [from, to] = sharedWindow || whole;
  const half = ((to - from) / 2) * factor;
  const middle = (from + to) / 2 + shift * (to - from);
  const next = [Math.max(whole[0], middle - half), Math.min(whole[1], middle + half)];
  if (next[1] - next[0] < 2) return;
  setWindow(next[0] <= whole[0] && next[1] >= whole[1] ? null : next);
}

// One finger scrolls the page and places the cursor; two fingers zoom.
const interaction = (() => {
  const model = { ...Dygraph.defaultInteractionModel };
  for (const name of ["touchstart", "touchmove", "touchend"]) {
    const usual = model[name];
    model[name] = (event, g, context) => {
      if (event.touches.length > 1 || context.isPinching) {
        context.isPinching = event.touches.length > 0;
        usual(event, g, context);
      } else if (event.touches.length === 1) g.mouseMove_(event.touches[0]);
    };
  }
  return model;
})();

/**
 * One chart. A series is {run, kind, step, value}: kind "line", "pale" (every step behind a smoothed line) or "dots".
 * options: {formatValue, zeroLine, onCursor(step, values by run), empty: what to say where there is nothing to draw}
 */
class RunChart {
  constructor(element, options) {
    this.element = element;
    this.options = options;
    this.inside = element.appendChild(document.createElement("div"));
    this.inside.style.cssText = "width:100%;height:100%";
    this.dygraph = null;
    this.row = -1;
    element.addEventListener("keydown", (event) => this.onKey(event));
    charts.push(this);
  }

  draw(series, styles, log) {
    series.sort((a, b) => (b.kind === "pale") - (a.kind === "pale")); // pale lines lie under all others
    this.series = series;
    if (!series.some((s) => s.value.some((v) => v !== null))) return this.drawNothing();
    const labels = ["step"];
    const perSeries = {};
    const colours = [];
    series.forEach((s, i) => {
      const style = styles[s.run];
      const label = `${i}`;
      labels.push(label);
      colours.push(s.kind === "pale" ? withAlpha(style.colour, 0.28) : style.colour);
      perSeries[label] = {
        strokeWidth: s.kind === "dots" ? 0 : s.kind === "pale" ? 1 : 1.8,
        strokePattern: s.kind === "line" ? style.dash : null,
        drawPoints: s.kind === "dots",
        pointSize: 3.5,
        connectSeparatedPoints: s.kind !== "dots",
      };
    });
    this.thin();
    const options = {
      labels,
      colors: colours,
      series: perSeries,
      logscale: Boolean(log),
      gridLineColor: cssColour("--grid"),
      axisLineColor: cssColour("--line"),
    };
    if (this.dygraph) this.dygraph.updateOptions({ file: this.rows, ...options });
    else this.create(options);
  }

  thin() {
    const perPixel = 2; // the least and the greatest value
    const limit = perPixel * Math.max(400, this.element.clientWidth);
    this.rows = mergeColumns(thinAll(this.series, sharedWindow, limit));
  }

  create(options) {
    this.inside.className = "";
    this.inside.textContent = "";
    const formatTick = (value) => this.options.formatValue(value);
    this.dygraph = new Dygraph(this.inside, this.rows, {
      ...options,
      legend: "never",
      xlabel: "step",
      xLabelHeight: 16,
      xRangePad: 5, // the last dot whole
      dateWindow: sharedWindow,
      highlightCircleSize: 3.5,
      interactionModel: interaction,
      axes: {
        x: {
          axisLabelFormatter: (value) => (Number.isInteger(value) ? formatCount(value) : ""), pixelsPerLabel: 80,
        },
        y: {
          axisLabelFormatter: formatTick, axisLabelWidth: 58, pixelsPerLabel: 34,
          ticker: (...range) => (this.options.ticker && this.options.ticker(...range)) || Dygraph.numericTicks(...range),
        },
      },
      drawCallback: (g) => this.afterDraw(g),
      highlightCallback: (event, x, points, row) => this.atRow(row),
      underlayCallback: (context, area, g) => this.underlay(context, area, g),
    });
  }

  /** Shrinks to the width of a sheet, or back. Nothing is drawn anew: what is drawn while a page is being printed comes
   *  out empty, because Chromium plays the strokes again and clips them away. */
  paper(isPaper) {
    const { inside, element } = this;
    if (!this.dygraph) return;
    if (!isPaper) {
      inside.style.cssText = "width:100%;height:100%";
      element.style.height = "";
      return;
    }
    const { width, height } = this.screen;
    const room = getComputedStyle(element);
    const pad = (side) => parseFloat(room[`padding${side}`]);
    const scale = Math.min(1, (element.clientWidth - pad("Left") - pad("Right")) / width);
    inside.style.cssText = `width:${width}px;height:${height}px;zoom:${scale}`;
    element.style.height = `${height * scale + pad("Top") + pad("Bottom") + 2}px`;
  }

  /** Its size before the page becomes a sheet. */
  remember() {
    this.screen = { width: this.inside.clientWidth, height: this.inside.clientHeight };
  }

  drawNothing() {
    if (this.dygraph) this.dygraph.destroy();
    this.dygraph = null;
    this.inside.className = "nothing";
    this.inside.textContent = this.options.empty;
  }

  underlay(context, area, g) {
    if (!this.options.zeroLine) return;
    const y = g.toDomYCoord(0);
    if (y < area.y || y > area.y + area.h) return;
    context.fillStyle = cssColour("--soft");
    context.fillRect(area.x, Math.round(y), area.w, 1);
  }

  // A zoom in one chart is a zoom in all.
  afterDraw(g) {
    const range = g.isZoomed("x") ? g.xAxisRange() : null;
    if (this.isFollowing || String(range) === String(sharedWindow)) return;
    setWindow(range);
  }

  redraw() {
    this.thin();
    this.isFollowing = true;
    this.dygraph.updateOptions({ file: this.rows, dateWindow: sharedWindow, valueRange: null });
    this.isFollowing = false;
  }

  // Also the chart that was zoomed draws anew: it may have room for more points now.
  showWindow() {
    if (!this.dygraph) return;
    this.redraw();
  }

  atRow(row) {
    this.row = row;
    const values = new Map(); // run -> {line, dots, pale}
    this.series.forEach((s, i) => {
      const value = this.rows[row][i + 1];
      if (value !== null) values.set(s.run, { ...values.get(s.run), [s.kind]: value });
    });
    this.options.onCursor(this.rows[row][0], values);
  }

  onKey(event) {
    if (!this.dygraph || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 10 : 1;
    if (event.key === "ArrowLeft") this.moveCursor(-step);
    else if (event.key === "ArrowRight") this.moveCursor(step);
    else if (event.key === "+" || event.key === "=") moveWindow(0.5);
    else if (event.key === "-") moveWindow(2);
    else if (event.key === "0") setWindow(null);
    else if (event.key === "PageUp") moveWindow(1, -0.5);
    else if (event.key === "PageDown") moveWindow(1, 0.5);
    else return;
    event.preventDefault();
  }

  moveCursor(by) {
    const last = this.rows.length - 1;
    const from = this.row < 0 ? (by > 0 ? -1 : last + 1) : this.row;
    const row = Math.min(last, Math.max(0, from + by));
    const step = this.rows[row][0];
    if (sharedWindow && (step < sharedWindow[0] || step > sharedWindow[1])) {
      const half = (sharedWindow[1] - sharedWindow[0]) / 2;
      setWindow([step - half, step + half]);
    }
    this.dygraph.setSelection(row);
    this.atRow(row);
  }
}
