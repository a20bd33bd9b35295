// report_page.js: what a reader does with the page, done by a script inside it. tests/test_report_page.sh puts it behind
// the page's own script and reads the line "checks: ..." out of the document.
const untilDrawn = setInterval(() => {
  if (!document.documentElement.dataset.drawnMs) return;
  clearInterval(untilDrawn);
  const failures = [];
  const check = (what, holds) => { if (!holds) failures.push(what); };
  const press = (target, key) => target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));

  // cells are decoded to the numbers that were put in; test_report.c has the same text
  const decoded = valuesOf({ cells: "AQABQACAAAD//wAA", bits: 16, colours: "linear", low: 1, high: 5 });
  check("cells", Math.abs(decoded[0] - 1) < 1e-9 && Math.abs(decoded[1] - 2) < 1e-3 && Number.isNaN(decoded[3]) && decoded[4] === 5);
  const logarithmic = valuesOf({ cells: btoa("\u0000\u0001\u0002\u00ff"), bits: 8, colours: "log", low: Math.log(2), high: Math.log(32) });
  check("zero apart", Number.isNaN(logarithmic[0]) && logarithmic[1] === 0 && Math.abs(logarithmic[2] - 2) < 1e-4 && Math.abs(logarithmic[3] - 32) < 1e-4);

  check("no sideways scrolling", document.documentElement.scrollWidth <= document.documentElement.clientWidth);
  for (const theme of themes) theme.draw(); // those below the screen wait until they come near it
  const empty = themes.filter((theme) => !theme.maps.length).map((theme) => theme.theme.name);
  check(`pictures in every section, but for ${empty}`, themes.length >= 4 && !empty.length);

  // keyboard: curves
  const chart = byId("loss-chart");
  press(chart, "ArrowRight");
  check("cursor of the curves", chart.nextElementSibling.textContent.startsWith("step 1 ·"));
  const whole = lossChart.dygraph.xAxisRange();
  press(chart, "+");
  const zoomed = lossChart.dygraph.xAxisRange();
  check("zoom", zoomed[1] - zoomed[0] < 0.6 * (whole[1] - whole[0]));
  press(chart, "0");
  check("whole run", Math.abs(lossChart.dygraph.xAxisRange()[1] - whole[1]) < 1e-9);

  // maps of tiles: rows by columns of one matrix at one step, for every run
  const mapped = themes.find((theme) => theme.theme.name === "Outliers");
  mapped.show({ title: "Map of 16x16 tiles", operand: "fprop.w" });
  check("maps of tiles", mapped.maps.length === runs.length && mapped.maps.every((map) => map.panel.xLabel === "column" && map.panel.x.length === 8 && map.panel.x[1] === 16 && map.rows.length === 4));
  mapped.show({ title: "Excess kurtosis" });

  // keyboard: maps, all runs read at once
  const outliers = themes.find((theme) => theme.theme.name === "Outliers");
  press(outliers.maps[0].canvas, "ArrowDown");
  press(outliers.maps[0].canvas, "ArrowRight");
  const first = outliers.maps[0];
  const read = outliers.readout.textContent;
  check("cursor of the maps", first.cursor && runs.every((run) => read.includes(run.name)) && read.startsWith(first.rows[first.cursor[1]].name));
  check("value under the cursor", read.includes(format(first.value(...first.cursor), 3)));

  // menus lead to other pictures; a run that is switched off is gone
  outliers.show({ title: "Largest magnitude", operand: "fprop.w" });
  check("menus", outliers.maps[0].panel.title === "Largest magnitude" && outliers.maps[0].panel.operand === "fprop.w");
  const before = outliers.maps.length;
  byId("legend").querySelector("button").click();
  outliers.draw();
  check("legend", outliers.maps.length === before - 1);
  byId("legend").querySelector("button").click();
  outliers.draw();

  // what stands out leads to its picture
  const finding = runs.flatMap((run) => run.findings || []).find((f) => f.module);
  if (finding) {
    goTo(finding);
    const shownIn = themes.find((theme) => theme.theme.name === finding.theme);
    check("finding", shownIn.maps[0].panel.title === finding.title);
  }

  // both themes have their own ink
  setTheme("dark");
  const dark = getComputedStyle(document.body).color;
  setTheme("light");
  check("themes", dark !== getComputedStyle(document.body).color);

  // every control can be named by a reader of screens, every canvas reached by keyboard or described
  const named = (node) => node.textContent.trim() || node.getAttribute("aria-label") || node.labels?.length;
  const nameless = [...document.querySelectorAll("button, select, input")].filter((node) => node.checkVisibility() && !named(node));
  check(`names of controls ${nameless.map((node) => node.outerHTML)}`, nameless.length === 0);
  check("names of canvases", [...document.querySelectorAll("canvas.panel")].every((node) => node.getAttribute("aria-label")));

  // nothing waits for a reader: every section draws itself, and says on paper what its menus say
  for (const theme of themes) {
    check(`${theme.theme.name} in words`, theme.words.textContent.includes(theme.title.value));
    for (const { panel } of theme.panels()) check(`${panel.title} is explained`, Boolean(panel.about));
  }

  // on a sheet: nothing is wider than it, no curve leaves its card, and back
  const before_ = byId("loss-chart").clientHeight;
  paper(true);
  check("width of a sheet", document.body.clientWidth === 700);
  for (const chart of charts.filter((one) => one.dygraph)) {
    const inside = chart.inside.getBoundingClientRect();
    const card = chart.element.getBoundingClientRect();
    check("curves in their card", inside.right <= card.right + 1 && inside.bottom <= card.bottom + 1);
  }
  check("pictures on a sheet", [...document.querySelectorAll("canvas.panel")].every((node) => node.getBoundingClientRect().right <= document.body.getBoundingClientRect().right));
  paper(false);
  check("back on the screen", byId("loss-chart").clientHeight === before_);

  // the headline says what came out
  const told = (recipe, gap, gapStep = 100) => ({ recipe, model: "m", twin: 0, summary: { gap, gapStep, steps: gapStep } });
  const said = (...runs) => headline([told("bf16", null), ...runs]);
  check("headline", said(told("chon", 0.951), told("nvfp4", 0.84)) === "chon +0.95 %, nvfp4 +0.84 % against BF16, one seed");
  check("headline of seeds", said(told("chon", 1), told("chon", 2), told("nvfp4", 0), told("nvfp4", 1)) === "chon +1.50 %, nvfp4 +0.50 % against BF16, means over 2 seeds");
  check("headline of some seeds", said(told("chon", 1), told("chon", 2), told("nvfp4", 0)).endsWith("means over 1 to 2 seeds"));
  check("a run that was stopped is not in the headline", !said(told("chon", 1), told("nvfp4", 0), told("fp8", 9, 50)).includes("fp8"));

  // seeds of a recipe are one tile and one colour; more than eight recipes are counted
  const seeded = (recipe, arm, valLoss) => ({ ...told(recipe, 1), name: `${recipe}-seed`, arm, config: {}, summary: { ...told(recipe, 1).summary, valLoss } });
  const three = [seeded("bf16", 0, 2), seeded("chon", 1, 3), seeded("nvfp4", 2, 5), seeded("chon", 1, 4), seeded("chon", 1, 5)];
  const dressed = runStyles(three);
  check("colours of seeds", dressed[1].colour === dressed[3].colour && dressed[1].colour !== dressed[2].colour && dressed[3].dash !== dressed[4].dash && dressed[1].dash !== dressed[3].dash);
  const tiled = (some) => { const into = document.createElement("div"); drawSummary(some, runStyles(some), into); return into; };
  const tiles = [...tiled(three).querySelectorAll(".tile")];
  check("tiles of seeds", tiles.length === 3 && tiles[1].textContent === "chon4.0000validation loss · +1.00 % to BF16 · mean of 3 seeds" && tiles[2].textContent.startsWith("nvfp4-seed5.0000"));
  const stopped = { ...seeded("chon", 1, 9), summary: { ...told("chon", 7, 50).summary, valLoss: 9 } };
  check("a seed that was stopped is in no mean", tiled([...three, stopped]).querySelectorAll(".tile")[1].textContent === "chon4.0000validation loss · +1.00 % to BF16 · mean of 3 of 4 seeds");
  const bare = (trainLoss, gap) => ({ ...seeded("chon", 1, null), summary: { ...told("chon", gap).summary, trainLoss, valLoss: null } });
  check("a loss that is not there", tiled([three[0], bare(null, null), bare(3, null)]).querySelectorAll(".tile")[1].textContent === "chon–training loss · mean of 2 seeds");
  check("a gap of some", tiled([three[0], bare(2, 1), bare(3, null)]).querySelectorAll(".tile")[1].textContent === "chon2.5000training loss · +1.00 % to BF16 (1 of 2) · mean of 2 seeds");
  const alike = runStyles(Array.from({ length: 16 }, (_, i) => seeded(`r${i % 8}`, i % 8, 2))).map(({ colour, dash }) => `${colour} ${dash}`);
  check("no two lines alike", new Set(alike).size === 16);
  const many = tiled(Array.from({ length: 11 }, (_, i) => seeded(`r${i}`, i, 2)));
  check("tiles of many", many.querySelectorAll(".tile").length === 8 && many.textContent.endsWith("3 more in the table of runs."));

  // ticks of heavy tails are round numbers
  const ticks = asinhTicks(Math.asinh(-1.4), Math.asinh(140), 150).map((tick) => tick.label);
  check(`ticks ${ticks}`, ticks.length >= 3 && ticks.length <= 7 && ticks.every((label) => /^[−-]?[013.,]+0*$/.test(label)));

  // names of rows never overlap, however many there are, and where some have no room each layer's first keeps its own
  const dense = Array.from({ length: 200 }, (_, r) => ({ name: `${r}`, label: `${Math.floor(r / 10)} q`, group: Math.floor(r / 10) }));
  const apart = (labels, least) => labels.every(({ y }, i) => !i || y - labels[i - 1].y >= least);
  check("dense names by layer", labelledRows(dense, 320).length === 20 && apart(labelledRows(dense, 320), 15) && labelledRows(dense, 320)[1].name === "10");
  const plain = dense.map((row) => ({ ...row, group: 0 }));
  check("dense names", labelledRows(plain, 460).length >= 25 && apart(labelledRows(plain, 460), 15));
  check("all names where there is room", labelledRows(dense.slice(0, 20), 300).length === 20);
  for (const theme of themes) {
    for (const map of theme.maps.filter((one) => one.labels)) check(`names of rows in ${theme.theme.name}`, map.labels.length > 0 && apart(map.labels, 12));
  }

  // the table by module, and its CSV
  const errors = themes.find((theme) => theme.theme.name === "Outliers");
  errors.table.node.open = true;
  errors.table.fill();
  const rowsInTable = errors.table.table.querySelectorAll("tbody tr").length;
  check("table by module", rowsInTable === errors.maps[0].rows.length && rowsInTable > 3);
  const csv = csvOf(errors.found).trim().split("\n");
  check("csv", csv[0] === "run,module,step,value" && csv.length > rowsInTable && csv.slice(1).every((line) => /^[^,]+,[^,]+,\d+,-?[\d.e+-]+$/.test(line)));
  check("png", pictureOf(errors).toDataURL("image/png").length > 1000);
  errors.table.node.open = false;

  // every number of a menu is explained, with its formula
  for (const theme of themes) {
    for (const { panel } of theme.panels().filter((one) => one.panel.kind !== "bars")) check(`formula of ${panel.title}`, Boolean(panel.formula));
  }

  // of plain BF16 there is nothing to tell
  const mechanisms = [...byId("roles").querySelectorAll("tr")].find((line) => line.firstChild.textContent === "mechanisms");
  check(`mechanisms of bf16, which are: ${mechanisms?.children[1].textContent}`, mechanisms && mechanisms.children[1].textContent === "–");
  check("recipes fit", byId("roles").firstChild.scrollWidth <= byId("roles").firstChild.clientWidth || document.documentElement.clientWidth < 600);

  console.log(`checks at ${document.documentElement.clientWidth}: ${failures.length ? failures.join(", ") : "all hold"}`);
}, 50);
