// main.js: reads the data, draws everything, answers the controls. It runs before the panels of the lens are read, so
// that curves and tables do not wait for them.

const report = JSON.parse(document.getElementById("data").textContent);
const { runs } = report;
for (const run of runs) run.panels = [];
for (const run of runs) run.series = lazily(run.series, (packed, name) => (name === "step" ? unpackSteps(packed) : unpackNumbers(packed)));
const byId = (id) => document.getElementById(id);
const SPANS = [1, 3, 5, 10, 20, 50, 100, 200, 500, 1000];
const hidden = new Set(); // runs that the legend switched off
let styles = runStyles(runs);
let themes = []; // the sections of the lens
let hasLens = false;

const shown = () => runs.map((_, i) => i).filter((i) => !hidden.has(i));
const span = () => SPANS[Number(byId("smoothing").value)];

// ---- series of the three charts

/** The smoothed line of a run and, under it, every step. */
function smoothPair(run, value) {
  const { step } = runs[run].series;
  const line = { run, kind: "line", step, value: smooth(value, span()) };
  return span() > 1 ? [{ run, kind: "pale", step, value }, line] : [line];
}

function lossSeries() {
  const out = [];
  for (const i of shown()) {
    const { series, eval: evaluation } = runs[i];
    out.push(...smoothPair(i, series.loss));
    if (evaluation.step.length) out.push({ run: i, kind: "dots", step: evaluation.step, value: evaluation.loss });
  }
  return out;
}

function gapSeries() {
  const out = [];
  for (const i of shown()) {
    const twin = runs[runs[i].twin];
    if (runs[i].twin === null || !twin) continue;
    const trace = (run) => ({ step: run.series.step, value: smooth(run.series.loss, span()) });
    const dots = (run) => ({ step: run.eval.step, value: run.eval.loss });
    out.push({ run: i, kind: "line", ...gapBetween(trace(runs[i]), trace(twin)) });
    out.push({ run: i, kind: "dots", ...gapBetween(dots(runs[i]), dots(twin)) });
  }
  return out;
}

function moreSeries() {
  const input = document.querySelector('input[name="more"]:checked');
  const what = input.value;
  byId("more-chosen").textContent = input.labels[0].textContent.trim();
  return shown().flatMap((i) => smoothPair(i, runs[i].series[what]));
}

// ---- cursor readouts

function readoutUnder(chart, formatValue) {
  const line = element("p", { class: "readout" });
  chart.after(line);
  return (step, values) => {
    const parts = [...values].map(([run, v]) => {
      const texts = [v.line !== undefined && formatValue(v.line), v.dots !== undefined && `${formatValue(v.dots)} validation`];
      return `${runs[run].name} ${texts.filter(Boolean).join(", ")}`;
    });
    line.textContent = `step ${formatCount(step)} · ${parts.join(" · ")}`;
  };
}

const lossChart = new RunChart(byId("loss-chart"), {
  formatValue: (value) => format(value, 3),
  empty: "These runs hold no step yet.",
  onCursor: readoutUnder(byId("loss-chart"), formatLoss),
});
const gapChart = new RunChart(byId("gap-chart"), {
  formatValue: formatGap,
  zeroLine: true,
  empty: "No run here has a BF16 twin: the same model, data and seeds with recipe bf16. nibble compare makes one.",
  onCursor: readoutUnder(byId("gap-chart"), formatGap),
});
const moreChart = new RunChart(byId("more-chart"), {
  formatValue: (value) => format(value, 3),
  empty: "Not measured.",
  onCursor: readoutUnder(byId("more-chart"), format),
});

// A section is drawn when it comes near the screen: a page of many runs opens as fast as one of few.
// A part has a section and draw(), which draws it and leaves isStale false.
const curveParts = [
  { section: byId("gap"), draw() { gapChart.draw(gapSeries(), styles); this.isStale = false; } },
  { section: byId("more"), draw() { moreChart.draw(moreSeries(), styles); this.isStale = false; } },
];
const parts = () => [...curveParts, ...themes];

const nearScreen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const part = parts().find((one) => one.section === target);
    part.isNear = isIntersecting;
    if (part.isNear && part.isStale) part.draw();
  }
  if (hasLens) document.documentElement.dataset.drawnMs ??= String(Math.round(performance.now()));
}, { rootMargin: "800px" });

/** Sections that nobody came near yet. None may be empty for who prints or searches, and curves that are drawn while a
 *  page is being printed come out empty: so they are drawn before, all when the page has been loaded (a program that
 *  prints it waits no longer), and after a change when there is nothing else to do. */
function drawRest() {
  for (const part of parts()) if (part.isStale !== false) part.draw();
}

function drawParts(some) {
  for (const part of some) {
    part.isStale = true;
    if (part.isNear) part.draw();
  }
  if (document.readyState === "complete") (window.requestIdleCallback || setTimeout)(drawRest);
}

function drawCharts() {
  byId("smoothing-text").textContent = span() > 1 ? `${span()} steps` : "off";
  lossChart.draw(lossSeries(), styles, byId("log").checked);
  drawParts(curveParts);
}

// ---- legend, tables, theme

function drawLegend() {
  byId("legend").replaceChildren(
    ...runs.map((run, i) => {
      const dash = styles[i].dash ? styles[i].dash.join(" ") : "none";
      const button = element("button", { type: "button", "aria-pressed": String(!hidden.has(i)) });
      button.innerHTML = `<svg aria-hidden="true"><line x1="0" y1="4" x2="26" y2="4" stroke="${styles[i].colour}" stroke-width="2.5" stroke-dasharray="${dash}"/></svg>`;
      button.append(run.name);
      button.addEventListener("click", () => {
        if (!hidden.delete(i)) hidden.add(i);
        button.setAttribute("aria-pressed", String(!hidden.has(i)));
        drawCharts();
        drawParts(themes);
      });
      return element("li", {}, button);
    }),
  );
}

function drawAll() {
  styles = runStyles(runs);
  drawSummary(runs, styles, byId("summary"));
  drawFindings(byId("findings"), byId("findings-list"));
  drawLegend();
  drawCharts();
  drawRuns(runs, styles, report.lastSteps, byId("runs-table"));
  drawRoles(runs, byId("roles"));
  drawConfigs(runs, byId("configs"));
  drawParts(themes);
}

/** The sections of the lens, when the whole page has been read. */
function drawLens() {
  JSON.parse(byId("panels").textContent).forEach((panels, i) => { runs[i].panels = panels; });
  themes = makeThemes(byId("lens"));
  hasLens = true;
  drawFindings(byId("findings"), byId("findings-list")); // their links lead into the sections
  drawParts(themes);
  drawContents();
  for (const part of parts()) nearScreen.observe(part.section);
}

/** Links to the sections, in the order of the page. */
function drawContents() {
  const sections = [...document.querySelectorAll("main section[id]")].filter((section) => !section.hidden && section.querySelector("h2"));
  byId("contents").replaceChildren(...sections.map((section) => element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
}

const THEMES = ["system", "light", "dark"];
function setTheme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  byId("theme").textContent = `Theme: ${name}`;
  drawAll();
}

const mostSteps = Math.max(...runs.map((run) => run.series.step.length));
byId("smoothing").value = String(SPANS.findLastIndex((s) => s <= Math.max(1, mostSteps / 50)));
byId("smoothing").addEventListener("input", drawCharts);
byId("log").addEventListener("change", drawCharts);
for (const input of document.querySelectorAll('input[name="more"]')) input.addEventListener("change", drawCharts);
for (const button of document.querySelectorAll("[data-zoom]")) {
  const actions = { in: () => moveWindow(0.5), out: () => moveWindow(2), all: () => setWindow(null) };
  button.addEventListener("click", actions[button.dataset.zoom]);
}
byId("theme").addEventListener("click", (event) => {
  const now = THEMES.indexOf(document.documentElement.dataset.theme || "system");
  setTheme(THEMES[(now + 1) % THEMES.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
addEventListener("resize", () => themes.forEach((theme) => theme.maps.forEach((map) => map.draw())));
/** Charts and maps in the width of a sheet, or of the screen again. */
function paper(isPaper) {
  drawRest();
  if (isPaper) for (const chart of charts) chart.remember();
  document.documentElement.classList.toggle("paper", isPaper);
  for (const chart of charts) chart.paper(isPaper);
  for (const theme of themes) for (const map of theme.maps) map.draw();
}
addEventListener("beforeprint", () => paper(true));
addEventListener("afterprint", () => paper(false));

const title = headline(runs);
document.title = `${title} · nibble`;
for (const [id, what] of [["loss-chart", "Loss over steps"], ["gap-chart", "Loss gap over steps"], ["more-chart", "Step by step"]]) {
  byId(id).setAttribute("role", "application");
  byId(id).setAttribute("aria-label", `${what}; arrow keys move a cursor and the line below reads its values`);
}
byId("footer").textContent = `Written ${report.written} by nibble from ${runs.map((run) => run.folder).join(", ")}. ` +
  "This page holds its data and needs no network. Curves: Dygraphs (MIT licence).";
drawAll();
document.addEventListener("DOMContentLoaded", drawLens);
addEventListener("load", drawRest);
document.documentElement.dataset.readyMs = String(Math.round(performance.now()));
