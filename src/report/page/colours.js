// colours.js: who is drawn how, in both themes.

// After Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart by colour-blind readers, darkened or lightened
// for contrast with the paper; the pairs that are easiest to tell apart come first. An eighth recipe is dashed.
const PALETTE = {
  light: ["#0072b2", "#d55e00", "#007a5a", "#b0508a", "#a87800", "#3a9bd0", "#6b4ca0"],
  dark: ["#56b4e9", "#ff8a4c", "#2fc79a", "#e08fc0", "#f0c64a", "#8ab4ff", "#b59cf0"],
};
const DASHES = [null, [8, 3], [2, 3], [10, 3, 2, 3], [5, 2], [12, 4], [3, 2, 3, 6]];

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Seeds of one recipe share a colour; lines of one colour are dashed apart. Twins in BF16 are ink, every other recipe takes
 *  the next colour. Returns [{colour, dash}], one a run. */
function runStyles(runs) {
  const palette = PALETTE[isDark() ? "dark" : "light"];
  const arms = new Map(); // places in the palette
  const drawn = palette.map(() => 0); // lines that have the colour
  let twins = 0;
  return runs.map((run) => {
    if (run.recipe === "bf16") return { colour: cssColour("--ink"), dash: DASHES[twins++ % DASHES.length] };
    if (!arms.has(run.arm)) arms.set(run.arm, arms.size % palette.length);
    const at = arms.get(run.arm);
    return { colour: palette[at], dash: DASHES[drawn[at]++ % DASHES.length] };
  });
}

function withAlpha(colour, alpha) {
  const hex = parseInt(colour.slice(1), 16);
  return `rgba(${hex >> 16}, ${(hex >> 8) & 255}, ${hex & 255}, ${alpha})`;
}

/**
 * A ramp for heat maps whose lightness rises evenly, so that it reads without colour too. Made in OKLCH
 * (bottosson.github.io/posts/oklab): deep blue, green, pale yellow, as vivid as a screen can show. 256 entries [r, g, b].
 */
const RAMP = (() => {
  const linear = (light, chroma, hue) => {
    const a = chroma * Math.cos(hue);
    const b = chroma * Math.sin(hue);
    const l = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const m = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const s = (light - 0.0894841775 * a - 1.291485548 * b) ** 3;
    return [
      4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
      -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    ];
  };
  const isShown = (channels) => channels.every((x) => x >= 0 && x <= 1);
  const toByte = (x) => Math.round(255 * (x <= 0.0031308 ? 12.92 * Math.max(0, x) : 1.055 * Math.min(1, x) ** (1 / 2.4) - 0.055));
  return Array.from({ length: 256 }, (_, i) => {
    const t = i / 255;
    const light = 0.2 + 0.75 * t;
    const hue = ((290 - 190 * t) * Math.PI) / 180;
    let chroma = 0.14;
    while (chroma > 0 && !isShown(linear(light, chroma, hue))) chroma -= 0.002;
    return linear(light, Math.max(0, chroma), hue).map(toByte);
  });
})();
