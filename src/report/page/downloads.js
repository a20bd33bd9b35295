// downloads.js: what a section shows as a table by module, as CSV and as a picture.

function download(name, url) {
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

/** A field of CSV (RFC 4180). */
const csvField = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

/** Every cell of the maps: run, row, column, value. */
function csvOf(found) {
  const [{ panel }] = found;
  const lines = [["run", panel.yLabel || "name", panel.xLabel || "x", "value"]];
  for (const { index, panel: one } of found) {
    if (one.kind === "bars") {
      one.names.forEach((name, i) => lines.push([runs[index].name, name, one.xLabel, one.values[i] ?? ""]));
      continue;
    }
    const values = valuesOf(one);
    for (let r = 0; r < rowCount(one); r++) {
      one.x.forEach((x, c) => {
        const value = values[r * one.x.length + c];
        if (!Number.isNaN(value)) lines.push([runs[index].name, rowName(one, r), x, Number(value.toPrecision(6))]);
      });
    }
  }
  return lines.map((line) => line.map(csvField).join(",")).join("\n") + "\n";
}

/** The maps below each other on one canvas, each under the name of its run. */
function pictureOf(section) {
  const ratio = devicePixelRatio || 1;
  const maps = section.maps.map((map) => map.canvas);
  const head = 30 * ratio;
  const whole = element("canvas", { width: Math.max(...maps.map((m) => m.width)), height: maps.reduce((sum, m) => sum + m.height + head, head) });
  const context = whole.getContext("2d");
  context.fillStyle = cssColour("--card");
  context.fillRect(0, 0, whole.width, whole.height);
  context.fillStyle = cssColour("--ink");
  context.font = `${14 * ratio}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.fillText(section.words.textContent, 8 * ratio, head / 2);
  let y = head;
  section.maps.forEach((map, i) => {
    context.fillText(section.found[i] ? runs[section.found[i].index].name : "", 8 * ratio, y + head / 2);
    context.drawImage(map.canvas, 0, y + head);
    y += map.canvas.height + head;
  });
  return whole;
}

/** Rows: modules (or channels, or parts); columns: the runs, at the last sample that has a number. */
class ModuleTable {
  constructor(section) {
    this.section = section;
    this.table = element("table", {});
    const button = (text, act) => {
      const made = element("button", { type: "button" }, text);
      made.addEventListener("click", act);
      return made;
    };
    const name = (end) => `${section.words.textContent.toLowerCase().replace(/[^a-z0-9]+/g, "-")}.${end}`;
    this.node = element("details", { class: "by-module" }, element("summary", {}, "Table by module, CSV, PNG"),
      element("div", { class: "tools" },
        button("Download CSV", () => download(name("csv"), `data:text/csv;charset=utf-8,${encodeURIComponent(csvOf(section.found))}`)),
        button("Download PNG", () => download(name("png"), pictureOf(section).toDataURL("image/png")))),
      element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `${section.theme.name} by module` }, this.table));
    this.node.addEventListener("toggle", () => this.fill());
  }

  draw(found) {
    this.section.found = found;
    if (this.node.open) this.fill();
  }

  /** The last number of a row, and at which column it was. */
  static last(panel, row) {
    const values = valuesOf(panel);
    for (let c = panel.x.length - 1; c >= 0 && row >= 0; c--) {
      const value = values[row * panel.x.length + c];
      if (!Number.isNaN(value)) return value;
    }
    return NaN;
  }

  fill() {
    const { found } = this.section;
    if (!this.node.open || !found || !found.length) return;
    const [{ panel }] = found;
    const bars = panel.kind === "bars";
    const names = bars ? panel.names : plainRowsOf(found.map((f) => f.panel), panel.yLabel === "module");
    const cell = (one, name) => {
      if (bars) return one.values[one.names.indexOf(name)] ?? NaN;
      return ModuleTable.last(one, placeRows(one, [{ name }])[0].row);
    };
    const head = [bars ? "module" : panel.yLabel, ...found.map(({ index }) => ({ number: runs[index].name }))];
    const body = names.map((name) => row("td", [name, ...found.map(({ panel: one }) => ({ number: valueText(cell(one, name), one) }))]));
    const caption = element("caption", { class: "hint" }, `${this.section.words.textContent}${bars ? "" : ", at the last sample"}`);
    this.table.replaceChildren(caption, element("thead", {}, row("th", head)), element("tbody", {}, ...body));
  }
}

const plainRowsOf = (panels, ofModules) => (ofModules ? moduleRows(panels, "layer") : plainRows(panels)).map((one) => one.name);
