// numbers.js: arithmetic on series and the way numbers are written. Knows nothing of the page.

/** Significant digits, without exponents where a person would not write one. */
function format(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(digits - 2).replace("e+", "e");
  return value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size))));
}

const formatLoss = (value) => (Number.isFinite(value) && value !== null ? value.toFixed(4) : "–");
const formatCount = (value) => (Number.isFinite(value) && value !== null ? Math.round(value).toLocaleString("en") : "–");

/** "+0.43 %", with a true minus sign. */
function formatGap(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  const text = Math.abs(value).toFixed(Math.abs(value) < 10 ? 2 : 1);
  return (Number(text) === 0 ? "" : value < 0 ? "−" : "+") + text + " %";
}

/**
 * Exponential mean over about `span` values, unbiased from the first value on. Gaps (null) stay gaps and do not decay
 * what came before.
 */
function smooth(values, span) {
  if (span <= 1) return values;
  const keep = 1 - 2 / (span + 1);
  const out = new Array(values.length);
  let sum = 0;
  let weight = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (value === null) {
      out[i] = null;
      continue;
    }
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    out[i] = sum / weight;
  }
  return out;
}

/**
 * Rows [step, column 0, column 1, ...] over the union of all steps; null where a column has no value.
 * columns: [{step: rising numbers, value: numbers or null}]
 */
function mergeColumns(columns) {
  const place = new Int32Array(columns.length);
  const rows = [];
  for (;;) {
    let step = Infinity;
    for (let c = 0; c < columns.length; c++) {
      const next = columns[c].step[place[c]];
      if (next < step) step = next;
    }
    if (step === Infinity) return rows;
    const row = new Array(columns.length + 1);
    row[0] = step;
    for (let c = 0; c < columns.length; c++) {
      const here = columns[c].step[place[c]] === step;
      row[c + 1] = here ? columns[c].value[place[c]++] : null;
    }
    rows.push(row);
  }
}

/** (a - b) / b in % at the steps that both series have. */
function gapBetween(a, b) {
  const out = { step: [], value: [] };
  for (let i = 0, j = 0; i < a.step.length && j < b.step.length; ) {
    if (a.step[i] === b.step[j]) {
      out.step.push(a.step[i]);
      out.value.push(a.value[i] === null || b.value[j] === null ? null : ((a.value[i] - b.value[j]) / b.value[j]) * 100);
      i++;
      j++;
    } else if (a.step[i] < b.step[j]) i++;
    else j++;
  }
  return out;
}

/** First index whose step is at least `step`. */
function indexOfStep(steps, step) {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Appends to `into` at most about `limit` indices of [from, to): least and greatest value of each of limit/2 stretches. */
function thinInto(into, value, from, to, limit) {
  const stretches = to - from <= limit ? 0 : limit >> 1;
  if (!stretches) for (let i = from; i < to; i++) into.push(i);
  for (let k = 0; k < stretches; k++) {
    const start = from + Math.floor(((to - from) * k) / stretches);
    const end = from + Math.floor(((to - from) * (k + 1)) / stretches);
    let least = start;
    let most = start;
    for (let i = start; i < end; i++) {
      if (value[i] === null) continue;
      if (value[least] === null || value[i] < value[least]) least = i;
      if (value[most] === null || value[i] > value[most]) most = i;
    }
    into.push(Math.min(least, most));
    if (least !== most) into.push(Math.max(least, most));
  }
}

/**
 * What a chart of a few thousand pixels can show of a long series: every spike of the window [first, last] of steps (all
 * where null), and a coarse outline of the rest.
 */
function thinSeries(series, window, limit = 4000) {
  const { step, value } = series;
  if (step.length <= limit) return series;
  const from = window ? Math.max(0, indexOfStep(step, window[0]) - 1) : 0;
  const to = window ? Math.min(step.length, indexOfStep(step, window[1]) + 2) : step.length;
  const kept = [];
  thinInto(kept, value, 0, from, limit >> 2);
  thinInto(kept, value, from, to, limit);
  thinInto(kept, value, to, step.length, limit >> 2);
  if (kept[0] !== 0) kept.unshift(0); // the ends say how far the run goes
  if (kept[kept.length - 1] !== step.length - 1) kept.push(step.length - 1);
  return { ...series, step: kept.map((i) => step[i]), value: kept.map((i) => value[i]) };
}
