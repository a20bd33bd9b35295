// tables.js: the headline, the table of runs, configurations, and the texts that came with each run.

/** A gap of the middle of a run is no gap of its end. */
function endedWithTwin(runs, run) {
  return run.summary.gap !== null && run.summary.gapStep === runs[run.twin].summary.steps;
}

function headline(runs) {
  const ended = runs.filter((run) => endedWithTwin(runs, run));
  const compared = ended.length ? ended : runs.filter((run) => run.summary.gap !== null);
  const models = [...new Set(runs.map((run) => run.model))];
  if (compared.length === 1) {
    const { recipe, summary } = compared[0];
    const size = Math.abs(summary.gap).toFixed(2);
    const side = Number(size) === 0 ? "level with" : `${size} % ${summary.gap > 0 ? "above" : "below"}`;
    return `After ${formatCount(summary.gapStep)} steps ${recipe} stands ${side} BF16`;
  }
  if (compared.length > 1) {
    const recipes = [...new Set(compared.map((run) => run.recipe))];
    const gaps = recipes.map((recipe) => {
      const own = compared.filter((run) => run.recipe === recipe);
      return { recipe, seeds: own.length, gap: own.reduce((sum, run) => sum + run.summary.gap, 0) / own.length };
    });
    const most = 5;
    const told = gaps.slice(0, most).map(({ recipe, gap }) => `${recipe} ${formatGap(gap)}`).join(", ");
    const rest = gaps.length > most ? ` and ${gaps.length - most} more` : "";
    const seeds = gaps.map((g) => g.seeds);
    const [least, largest] = [Math.min(...seeds), Math.max(...seeds)];
    const means = `means over ${least === largest ? largest : `${least} to ${largest}`} seeds`;
    return `${told}${rest} against BF16, ${largest === 1 ? "one seed" : means}`;
  }
  return `${runs.length} ${runs.length === 1 ? "run" : "runs"} of ${models.join(", ")}`;
}

function subline(runs) {
  const seeds = new Set(runs.map((run) => ["seeds.init", "seeds.data", "seeds.rounding"].map((key) => run.config[key]).join("/")));
  const models = [...new Set(runs.map((run) => run.model))].join(", ");
  const compared = runs.some((run) => run.summary.gap !== null);
  const note = compared && seeds.size === 1 ? " One seed: it cannot tell how much of a gap is chance." : "";
  return `Validation loss of ${models}.${note}`;
}

/** null where one of them is. */
const meanOf = (numbers) => (numbers.length && !numbers.includes(null) ? numbers.reduce((sum, x) => sum + x, 0) / numbers.length : null);

/** One recipe: what its seeds came to on average, those that went as far as the furthest. */
function tileOf(runs, all, style) {
  const furthest = Math.max(...all.map((run) => run.summary.steps));
  const own = all.filter((run) => run.summary.steps === furthest);
  const isVal = own.every((run) => run.summary.valLoss !== null);
  const loss = meanOf(own.map((run) => run.summary[isVal ? "valLoss" : "trainLoss"]));
  const told = own.filter((run) => run.summary.gap !== null);
  const gap = meanOf(told.map((run) => run.summary.gap));
  const isEarly = !told.every((run) => endedWithTwin(runs, run));
  const early = isEarly ? (own.length === 1 ? `, step ${formatCount(own[0].summary.gapStep)}` : ", not all at the end") : "";
  const some = told.length < own.length ? ` (${told.length} of ${own.length})` : "";
  const gapText = gap === null ? "" : ` · ${formatGap(gap)} to BF16${some}${early}`;
  const count = own.length < all.length ? `${own.length} of ${all.length}` : all.length;
  const seeds = all.length > 1 ? ` · mean of ${count} seeds` : "";
  return element("div", { class: "tile" },
    element("span", {}, swatch(style), all.length > 1 ? all[0].recipe : all[0].name), element("b", {}, formatLoss(loss)),
    element("span", {}, (isVal ? "validation loss" : "training loss") + gapText + seeds));
}

function drawSummary(runs, styles, into) {
  into.textContent = "";
  into.append(element("h1", {}, headline(runs).replaceAll(" %", "\u00a0%")), element("p", { class: "soft" }, subline(runs)));
  const most = 8;
  const arms = [...new Set(runs.map((run) => run.arm))];
  const tiles = arms.slice(0, most).map((arm) => tileOf(runs, runs.filter((run) => run.arm === arm), styles[arm]));
  into.append(element("div", { class: "tiles" }, ...tiles));
  if (arms.length > most) into.append(element("p", { class: "soft" }, `${arms.length - most} more in the table of runs.`));
}

function swatch(style) {
  const made = element("i", { class: "swatch", "aria-hidden": "true" });
  made.style.background = style.colour;
  return made;
}

function row(kind, cells) {
  return element("tr", {}, ...cells.map((cell) => {
    const isNumber = typeof cell === "object" && cell !== null && cell.number !== undefined;
    return element(kind, isNumber ? { class: "number" } : {}, isNumber ? cell.number : cell);
  }));
}

function drawRuns(runs, styles, lastSteps, table) {
  const head = ["run", "recipe", { number: "steps" }, { number: "training loss" }, { number: "validation loss" },
    { number: "perplexity" }, { number: "gap to BF16" }, { number: "tokens/s" }];
  const body = runs.map((run, i) => {
    const s = run.summary;
    const name = element("span", {}, swatch(styles[i]), run.name);
    return row("td", [name, run.recipe, { number: formatCount(s.steps) }, { number: formatLoss(s.trainLoss) },
      { number: formatLoss(s.valLoss) }, { number: s.valLoss === null ? "–" : format(Math.exp(s.valLoss)) },
      { number: run.recipe === "bf16" ? "twin" : formatGap(s.gap) + (s.gap === null || endedWithTwin(runs, run) ? "" : "*") },
      { number: formatCount(s.tokS) }]);
  });
  table.replaceChildren(element("thead", {}, row("th", head)), element("tbody", {}, ...body));
  const early = runs.some((run) => run.summary.gap !== null && !endedWithTwin(runs, run));
  document.getElementById("runs-hint").textContent = (early ? "* before the twin's end. " : "") +
    `Training loss: mean over the last ${lastSteps} steps. Validation loss: of the last evaluation, by each run's own ` +
    "forward pass. Gap: (loss − twin's) / twin's, on validation data. Tokens/s: median over the steps.";
}

/** One operand of a recipe in a few words: "nvfp4 1x16, stochastic 8 bits, Hadamard 16 fixed". */
function roleText(keys, role) {
  const key = (name) => keys[`${role}.${name}`];
  const parts = [];
  if (key("from")) parts.push(key("format") ? `${key("from")} again:` : `${key("from")}, same codes`);
  if (key("via") && key("via") !== "none") parts.push(`via ${key("via")}`);
  if (key("format") === "bf16") parts.push("bf16");
  else if (key("format")) {
    parts.push([key("format"), key("block")].filter(Boolean).join(" "));
    const outer = key("outer.block") && `outer ${key("outer.block")} ${key("outer.scale") || ""}`.trim();
    const rule = key("scale") && key("scale") !== "absmax" ? `scale ${key("scale")}` : "";
    const rounding = key("round") === "even" ? "" : `${key("round")} ${key("sr_bits") ? `${key("sr_bits")} bits` : ""}`.trim();
    const size = key("hadamard.size");
    const rotation = size && size !== "none" ? `Hadamard ${size} ${key("hadamard.signs")}` : "";
    parts[parts.length - 1] += [rule, outer, rounding, rotation].filter(Boolean).map((text) => `, ${text}`).join("");
  }
  return parts.join(" ") || "–";
}

/** Rows: the six operands of a linear layer; columns: the recipes. */
function drawRoles(runs, into) {
  const seen = new Map(); // the same recipe in several runs is one column
  for (const run of runs) if (run.recipeKeys && !seen.has(run.recipeText)) seen.set(run.recipeText, run);
  const some = [...seen.values()];
  into.replaceChildren();
  if (!some.length) return;
  const roles = ["fprop.x", "fprop.w", "dgrad.dy", "dgrad.w", "wgrad.dy", "wgrad.x"];
  const body = roles.map((role) => row("td", [element("code", {}, role), ...some.map((run) => roleText(run.recipeKeys, role))]));
  const kept = (run) => run.recipeKeys["keep.modules"] || "–";
  const ends = (run) => {
    const { "keep.first_blocks": first = "0", "keep.last_blocks": last = "0" } = run.recipeKeys;
    return `first ${first}, last ${last}`;
  };
  const plain = ["name", "family", "about", "paper", "keep", "late_switch", "fprop", "dgrad", "wgrad"];
  const besides = (run) => {
    const groups = new Set(Object.keys(run.recipeKeys).map((key) => key.split(".")[0]));
    // keys that say nothing while another one is at rest
    const resting = { "gradients.exchange.": ["gradients.exchange.rule", "own"] };
    for (const key of ["tile", "beta"]) resting[`attention.${key}`] = ["attention.sums", "fp32"];
    for (const key of ["forward", "backward", "delta", "p_levels", "v_blocks", "smooth_k"]) resting[`attention.${key}`] = ["attention.forward", "bf16"];
    const rests = (key) => Object.entries(resting).some(([start, [main, still]]) => key.startsWith(start) && run.recipeKeys[main] === still);
    const isSilent = (key, value) => key.endsWith(".scale") || value === "fp32" || rests(key) || (key.startsWith("policy.") && ["", "[]", "none"].includes(String(value)));
    const isPlain = (group) => Object.entries(run.recipeKeys).every(([key, value]) => !(key === group || key.startsWith(`${group}.`)) || isSilent(key, value));
    const stores = ["quantize_from", "optimizer_state", "gradients", "policy", "attention"]; // of every recipe; worth a word where something is kept in fewer bits
    return [...groups].filter((group) => !plain.includes(group) && !(stores.includes(group) && isPlain(group))).join(", ") || "–";
  };
  body.push(row("td", ["mechanisms", ...some.map(besides)]));
  body.push(row("td", ["modules in BF16", ...some.map(kept)]), row("td", ["blocks in BF16", ...some.map(ends)]));
  into.append(
    element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Recipes" },
      element("table", {}, element("thead", {}, row("th", ["operand", ...some.map((run) => run.recipe)])), element("tbody", {}, ...body))),
    element("p", { class: "hint" }, "fprop Y = X Wᵀ · dgrad dX = dY W · wgrad dW = dYᵀ X. Block counts below 1 are shares of the depth, rounded up."),
  );
}

// Keys in the order of the first run's file; those that differ between runs first.
function configTable(runs) {
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))];
  const differs = (key) => new Set(runs.map((run) => run.config[key])).size > 1;
  const ordered = [...keys.filter(differs), ...keys.filter((key) => !differs(key))];
  const body = ordered.map((key) => {
    const made = row("td", [element("code", {}, key), ...runs.map((run) => run.config[key] ?? "–")]);
    if (runs.length > 1 && differs(key)) made.className = "differs";
    return made;
  });
  return element("div", { class: "wide", tabindex: "0" },
    element("table", {}, element("thead", {}, row("th", ["key", ...runs.map((run) => run.name)])), element("tbody", {}, ...body)));
}

function fold(title, ...content) {
  return element("details", {}, element("summary", {}, title), ...content);
}

function drawConfigs(runs, into) {
  const title = runs.length > 1 ? "Every setting, those that differ first" : "Every setting";
  into.replaceChildren(fold(title, configTable(runs)));
  for (const run of runs) {
    if (run.recipeText) into.append(fold(`Recipe ${run.recipe} as ${run.name} used it`, element("pre", {}, run.recipeText)));
    if (run.census) into.append(fold(`Census of ${run.name}: which product runs in which format on which kernel`, element("pre", {}, run.census)));
    into.append(fold(`Command that repeats ${run.name}`,
      element("pre", {}, `nibble train ${run.folder}/run.yaml --set out=${run.folder}-again`)));
    if (run.skipped) into.append(fold(`What the lens could not measure in ${run.name}, and why`, element("pre", {}, run.skipped)));
    if (run.events.length) {
      const lines = run.events.map((e) => element("p", {}, `step ${e.step}: ${[e.event, e.what, e.where, e.policy].filter(Boolean).join(" · ")}`));
      into.append(fold(`Events of ${run.name} (${run.events.length})`, element("div", { class: "events" }, ...lines)));
    }
  }
}
