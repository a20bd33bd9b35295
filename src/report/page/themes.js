// themes.js: one section for each theme of the lens: the reader chooses what to see, and sees it for all runs at once.

const OPERANDS = {
  "fprop.x": "activations X (fprop.x)", "fprop.w": "weights W (fprop.w)", "dgrad.dy": "gradients dY (dgrad.dy)",
  output: "outputs", occ: "compensated X (occ)", occ_clamped: "clamped X (occ)", hcp: "patched X (hcp)",
  "dgrad.w": "weights W (dgrad.w)", "wgrad.dy": "gradients dY (wgrad.dy)", "wgrad.x": "activations X (wgrad.x)",
};

/** "layers.3.self_attn.q_proj" -> {layer: 3, kind: "q_proj"}; names that say little alone keep the part before them. */
function moduleParts(name) {
  const parts = name.split(".");
  const layer = parts[0] === "layers" ? Number(parts[1]) : NaN;
  const rest = Number.isNaN(layer) ? parts : parts.slice(2);
  const last = rest[rest.length - 1];
  const kind = (["input", "inner", "output"].includes(last) || /^\d+$/.test(last) ? rest.slice(-2).join(" ") : last).replace("self_attn", "attn");
  return { layer, kind };
}

/** Rows of module maps over several runs: every name that one of them has, by layer or by kind of module. */
function moduleRows(panels, order) {
  const names = [...new Set(panels.flatMap((panel) => panel.y))];
  const parts = new Map(names.map((name) => [name, moduleParts(name)]));
  const kinds = [...new Set(names.map((name) => parts.get(name).kind))];
  const key = (name) => {
    const { layer, kind } = parts.get(name);
    const l = Number.isNaN(layer) ? 1e6 : layer;
    return order === "kind" ? kinds.indexOf(kind) * 1e7 + l : l * 1e4 + kinds.indexOf(kind);
  };
  names.sort((a, b) => key(a) - key(b));
  return names.map((name) => {
    const { layer, kind } = parts.get(name);
    return { name, label: Number.isNaN(layer) ? kind : `${layer} ${kind}`, group: order === "kind" ? kind : layer };
  });
}

/** The names of rows that every panel has. */
function commonRows(panels) {
  const names = panels.map((panel) => new Set(Array.from({ length: rowCount(panel) }, (_, row) => rowName(panel, row))));
  return new Set([...names[0]].filter((name) => names.every((set) => set.has(name))));
}

const MOST_HOT = 48;

/** Rows of channel maps: those with the largest peaks of all runs, from the ones that are hot at the end down to those
 *  that only were; or all by number. */
function channelRows(panels, order) {
  const count = Math.max(...panels.map(rowCount));
  const peak = new Float64Array(count);
  const last = new Float64Array(count);
  for (const panel of panels) {
    const values = valuesOf(panel);
    const cols = panel.x.length;
    for (let r = 0; r < rowCount(panel); r++) {
      for (let c = 0; c < cols; c++) peak[r] = Math.max(peak[r], values[r * cols + c] || 0);
      last[r] += values[r * cols + cols - 1] || 0;
    }
  }
  let rows = Array.from({ length: count }, (_, row) => row);
  if (order === "heat") rows = rows.sort((a, b) => peak[b] - peak[a]).slice(0, MOST_HOT).sort((a, b) => last[b] - last[a]);
  const longest = panels.find((panel) => rowCount(panel) === count);
  return rows.map((row) => ({ name: rowName(longest, row), label: rowName(longest, row), group: 0 }));
}

function placeRows(panel, rows) {
  const place = new Map(Array.from({ length: rowCount(panel) }, (_, row) => [rowName(panel, row), row]));
  return rows.map((row) => ({ ...row, row: place.get(row.name) ?? -1 }));
}

function plainRows(panels) {
  const longest = panels.reduce((a, b) => (rowCount(a) >= rowCount(b) ? a : b));
  return Array.from({ length: rowCount(longest) }, (_, row) => ({ name: rowName(longest, row), label: rowName(longest, row), group: 0 }));
}

/** A labelled menu; onChange is called after a choice. */
function menu(label, onChange) {
  const select = element("select", {});
  select.addEventListener("change", onChange);
  const node = element("label", {}, `${label} `, select);
  return {
    node,
    get value() { return select.value; },
    /** Keeps the choice where it is still there, otherwise makes the first; hides a menu without choices. */
    fill(values, name = (value) => value, first = values[0]) {
      const choice = values.includes(select.value) ? select.value : first;
      select.replaceChildren(...values.map((value) => element("option", { value }, name(value))));
      select.value = choice;
      node.hidden = values.length < 2;
    },
    choose(value) { select.value = value; },
  };
}

/** Round values of a scale that is logarithmic away from zero, as many as have room. */
function asinhTicks(low, high, pixels) {
  const steps = [0];
  for (let ten = 0.1; ten < 1e12; ten *= 10) steps.push(ten, 3 * ten, -ten, -3 * ten);
  const inside = steps.filter((v) => Math.asinh(v) >= low && Math.asinh(v) <= high).sort((a, b) => Math.abs(b) - Math.abs(a));
  const kept = [];
  const apart = (24 * (high - low)) / Math.max(24, pixels);
  for (const v of inside) if (kept.every((k) => Math.abs(Math.asinh(k) - Math.asinh(v)) >= apart)) kept.push(v);
  return kept.sort((a, b) => a - b).map((v) => ({ v: Math.asinh(v), label: format(v, 2) }));
}

const unique = (values) => [...new Set(values)];

/** The mean of all where there is one, otherwise where the largest value is. */
function firstModule(panels) {
  if (!panels.length || panels[0].module === "mean of all") return panels.length ? panels[0].module : "";
  return panels.reduce((a, b) => (a.high >= b.high ? a : b)).module || "";
}

class ThemeSection {
  constructor(theme, id) {
    this.theme = theme;
    this.maps = [];
    this.isStale = true; // what it shows is not what it should show
    this.isNear = false; // the screen
    const redraw = () => this.draw();
    this.title = menu("Show", redraw);
    this.operand = menu("of", redraw);
    this.module = menu("in", redraw);
    this.order = menu("rows by", redraw);
    this.words = element("p", { class: "chosen" }); // what the menus say, on paper
    this.table = new ModuleTable(this);
    this.about = element("p", { class: "about" });
    this.readout = element("p", { class: "readout", "aria-live": "polite" });
    this.scale = element("canvas", { class: "scale", "aria-hidden": "true" });
    this.legend = element("p", { class: "hint scale-line" });
    this.grid = element("div", { class: "maps" });
    this.chartBox = element("div", { class: "chart low", tabindex: "0", role: "application", "aria-label": `${theme.name}: median over the modules, step by step` });
    this.chartHint = element("p", { class: "hint" }, "Line: median over the modules. Pale: the worst module.");
    this.unscaled = (value) => value; // of the chart's axis
    this.section = element("section", { id, class: "waiting", "aria-labelledby": `${id}-title` },
      element("h2", { id: `${id}-title` }, theme.name), element("p", { class: "soft" }, theme.about || ""),
      element("div", { class: "tools" }, this.title.node, this.operand.node, this.module.node, this.order.node),
      this.words, this.about, this.chartBox, this.chartHint, element("div", { class: "scale-box" }, this.scale, this.legend), this.readout, this.grid, this.table.node);
    this.chart = null;
  }

  /** Runs and their panels of this theme. */
  panels() {
    return runs.flatMap((run, index) => run.panels.filter((panel) => panel.theme === this.theme.name).map((panel) => ({ index, panel })));
  }

  /** Fills the menus from left to right and returns what they choose, for the runs that are shown. */
  chosen() {
    let left = this.panels();
    this.title.fill(unique(left.map(({ panel }) => panel.title)));
    left = left.filter(({ panel }) => panel.title === this.title.value);
    this.operand.fill(unique(left.map(({ panel }) => panel.operand || "")), (value) => OPERANDS[value] || value);
    left = left.filter(({ panel }) => (panel.operand || "") === this.operand.value);
    this.module.fill(unique(left.map(({ panel }) => panel.module || "")), undefined, firstModule(left.map(({ panel }) => panel)));
    left = left.filter(({ panel }) => (panel.module || "") === this.module.value);
    return left.filter(({ index }) => !hidden.has(index));
  }

  /** Goes to one picture; parts that are not given stay. */
  show({ title, operand, module }) {
    for (const [picker, value] of [[this.title, title], [this.operand, operand], [this.module, module]]) {
      this.chosen();
      if (value) picker.choose(value);
    }
    this.draw();
  }

  draw() {
    this.isStale = false;
    this.section.classList.remove("waiting");
    const found = this.chosen();
    this.maps = [];
    this.grid.replaceChildren();
    this.readout.textContent = "Point at a cell, or move there with the arrow keys, to read it in all runs.";
    if (!found.length) return;
    const [{ panel }] = found;
    this.words.textContent = [panel.title, panel.operand && (OPERANDS[panel.operand] || panel.operand), panel.module].filter(Boolean).join(" · ");
    this.drawAbout(panel);
    this.table.draw(found);
    if (panel.kind === "bars") return this.drawBars(found);
    const ofModules = panel.yLabel === "module";
    for (const box of [this.scale, this.legend, this.readout]) box.hidden = false;
    const ofChannels = panel.yLabel === "channel";
    this.order.fill(ofModules ? ["layer", "kind"] : ofChannels ? ["heat", "number"] : []);
    this.drawChart(ofModules ? found : []);
    const range = rangeOf(found.map((f) => f.panel));
    this.drawScale(range, found.map((f) => f.panel));
    const drawn = found.map((f) => f.panel);
    const rows = ofModules ? moduleRows(drawn, this.order.value) : ofChannels ? channelRows(drawn, this.order.value) : plainRows(drawn);
    for (const { index, panel: one } of found) {
      const map = new HeatMap(one, range, placeRows(one, rows), runCaption(index), (name, x) => this.point(name, x));
      map.run = index;
      this.maps.push(map);
      this.grid.append(map.figure);
    }
    for (const map of this.maps) map.draw();
    return undefined;
  }

  drawAbout(panel) {
    this.about.replaceChildren(panel.about || "");
    if (panel.formula) this.about.append(" ", element("span", { class: "formula" }, panel.formula));
  }

  drawBars(found) {
    const values = found.flatMap((f) => f.panel.values).filter((value) => value !== null);
    const range = { low: Math.min(0, ...values), high: Math.max(0, ...values) };
    for (const box of [this.order.node, this.chartBox, this.chartHint, this.scale, this.legend, this.readout]) box.hidden = true;
    this.maps = found.map(({ index, panel }) => new Bars(panel, runCaption(index), range));
    this.grid.append(...this.maps.map((map) => map.figure));
    for (const map of this.maps) map.draw();
  }

  drawScale(range, panels) {
    const { context, width } = beginCanvas(this.scale, 30);
    const from = 6;
    const wide = Math.min(320, width - 12);
    for (let i = 0; i < wide; i++) {
      const [r, g, b] = RAMP[Math.round((255 * i) / (wide - 1))];
      context.fillStyle = `rgb(${r}, ${g}, ${b})`;
      context.fillRect(from + i, 2, 1.5, 10);
    }
    context.fillStyle = cssColour("--soft");
    [0, 0.5, 1].forEach((share, i) => {
      context.textAlign = ["left", "center", "right"][i];
      context.fillText(format(valueAtShare(share, range), 3), from + share * wide, 22);
    });
    const [{ unit, colours }] = panels;
    const spread = { linear: "", log: "logarithmic", asinh: "logarithmic away from zero" }[colours];
    const marks = panels.find((panel) => panel.marks.length);
    this.legend.textContent = [unit, spread, "one scale for all runs", "blank: not measured, or in BF16",
      marks && `▼ ${marks.markMeaning}`].filter(Boolean).join(" · ");
  }

  // Median and worst over the rows of each column; of several runs over the modules that all of them have, for what one
  // recipe leaves in BF16 would be missing from its median alone.
  drawChart(found) {
    this.chartBox.hidden = this.chartHint.hidden = !found.length || found[0].panel.x.length < 3;
    if (this.chartBox.hidden) return;
    if (!this.chart) {
      this.chart = new RunChart(this.chartBox, {
        formatValue: (value) => format(this.unscaled(value), 3),
        ticker: (low, high, pixels) => this.unscaled === Math.sinh && asinhTicks(low, high, pixels),
        empty: "Not measured.",
        onCursor: (step, values) => this.readChart(step, values),
      });
    }
    const common = commonRows(found.map((f) => f.panel));
    const left = new Set(found.flatMap((f) => f.panel.y)).size - common.size;
    this.chartText = `Line: median over ${common.size} modules${left ? `; ${left} that not every run has are left out` : ""}. Pale: the worst of them.`;
    this.chartHint.textContent = this.chartText;
    const series = found.flatMap(({ index, panel }) => {
      const values = valuesOf(panel);
      const cols = panel.x.length;
      const column = (c) => Array.from({ length: rowCount(panel) }, (_, r) => (common.has(rowName(panel, r)) ? values[r * cols + c] : NaN)).filter((v) => !Number.isNaN(v)).sort((a, b) => a - b);
      const columns = panel.x.map((_, c) => column(c));
      const pick = (place) => columns.map((sorted) => (sorted.length ? sorted[Math.floor(place * (sorted.length - 1))] : null));
      return [{ run: index, kind: "pale", step: panel.x, value: pick(panel.lowIsBad ? 0 : 1) }, { run: index, kind: "line", step: panel.x, value: pick(0.5) }];
    });
    const { colours } = found[0].panel;
    const positive = series.every((s) => s.value.every((v) => v === null || v > 0));
    this.unscaled = colours === "asinh" ? Math.sinh : (value) => value;
    if (colours === "asinh") for (const s of series) s.value = s.value.map((v) => (v === null ? null : Math.asinh(v)));
    this.chart.draw(series, styles, colours === "log" && positive);
  }

  readChart(step, values) {
    const text = (value) => format(this.unscaled(value), 3);
    const parts = [...values].map(([run, v]) => `${runs[run].name} ${v.line === undefined ? "" : text(v.line)}, worst ${v.pale === undefined ? "–" : text(v.pale)}`);
    this.chartHint.textContent = `step ${formatCount(step)}, median · ${parts.join(" · ")}`;
  }

  /** The reader points at a cell of one map: all maps show theirs. */
  point(name, x) {
    const row = this.maps[0].rows.find((r) => r.name === name);
    const texts = this.maps.map((map) => `${runs[map.run].name} ${map.show(name, x)}`);
    const { yLabel, xLabel } = this.maps[0].panel;
    const what = yLabel === "module" ? name : `${yLabel} ${row ? row.label : name}`;
    this.readout.textContent = `${what}, ${xLabel} ${formatCount(x)}: ${texts.join(" · ")}`;
  }
}

function runCaption(index) {
  const node = element("b", {}, swatch(styles[index]), runs[index].name);
  return { node, text: runs[index].name };
}

/** One section for each theme that some run has drawings of, in the order of report.themes; others come last. */
function makeThemes(into) {
  const known = report.themes.map((theme) => theme.name);
  const others = unique(runs.flatMap((run) => run.panels.map((panel) => panel.theme))).filter((name) => !known.includes(name));
  const all = [...report.themes, ...others.map((name) => ({ name }))];
  const some = all.filter((theme) => runs.some((run) => run.panels.some((panel) => panel.theme === theme.name)));
  return some.map((theme) => {
    const made = new ThemeSection(theme, `theme-${theme.name.toLowerCase().replace(/[^a-z]+/g, "-")}`);
    into.append(made.section);
    return made;
  });
}
