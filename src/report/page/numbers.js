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

/** Numbers from base64 of little-endian float32; NaN there is null here. */
function unpackNumbers(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const view = new DataView(bytes.buffer);
  const numbers = new Array(raw.length >> 2);
  for (let i = 0; i < numbers.length; i++) {
    const value = view.getFloat32(4 * i, true);
    numbers[i] = value === value ? value : null;
  }
  return numbers;
}

/** Steps from spans [first, distance, count]. */
function unpackSteps(spans) {
  const steps = [];
  for (const [first, every, count] of spans) for (let i = 0; i < count; i++) steps.push(first + i * every);
  return steps;
}

/** An object like `packed`, each of whose values is unpacked when it is first asked for. */
function lazily(packed, unpack) {
  const made = {};
  for (const [key, value] of Object.entries(packed)) {
    let known = null;
    Object.defineProperty(made, key, { enumerable: true, get: () => (known ??= unpack(value, key)) });
  }
  return made;
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
 * Indices of what a chart can show of a long series in `limit` points: every spike of the window [first, last] of steps
 * (all where null), and a coarse outline of the rest. null: all of it.
 */
function indicesShown({ step, value }, window, limit) {
  if (step.length <= limit) return null;
  const from = window ? Math.max(0, indexOfStep(step, window[0]) - 1) : 0;
  const to = window ? Math.min(step.length, indexOfStep(step, window[1]) + 2) : step.length;
  const kept = [];
  thinInto(kept, value, 0, from, limit >> 2);
  thinInto(kept, value, from, to, limit);
  thinInto(kept, value, to, step.length, limit >> 2);
  if (kept[0] !== 0) kept.unshift(0); // the ends say how far the run goes
  if (kept[kept.length - 1] !== step.length - 1) kept.push(step.length - 1);
  return kept;
}

/** The series as a chart of `limit` points a window can show them. Series over the very same steps keep the same ones. */
function thinAll(series, window, limit) {
  const shown = new Map(); // steps -> indices; the first series over them, the liveliest, has chosen
  return series.map((s) => {
    if (!shown.has(s.step)) shown.set(s.step, indicesShown(s, window, limit));
    const kept = shown.get(s.step);
    return kept ? { ...s, step: kept.map((i) => s.step[i]), value: kept.map((i) => s.value[i]) } : s;
  });
}
