// Where an edit may change the picture: `p2p_lab.attention.blending`.
//
//     z* ← z + mask · (z* − z)

/** @typedef {import("./plan.js").BlendPlan} BlendPlan */
/** @typedef {{values: Float32Array, sites: number, grid: [number, number], length: number}} Maps
 * one step's maps, or their sum, (sites, pixels, L) */

/** Add up maps over the first steps. @param {Maps[]} steps @returns {Maps} */
export function summed(steps) {
  const values = new Float32Array(steps[0].values.length);
  for (const one of steps) for (let i = 0; i < values.length; i++) values[i] += one.values[i];
  return { ...steps[0], values };
}

/** The mask of one step, (h, w), 1 where the edit may change the latents.
 * @param {Maps} source sums so far @param {Maps} target @param {BlendPlan} blend
 * @param {[number, number]} size of the latents @returns {Float32Array} */
export function blendMask(source, target, blend, size) {
  const mask = new Float32Array(size[0] * size[1]).fill(1);
  const near = strongest(source, target, blend.source_tokens, blend.target_tokens, size, true);
  const away = strongest(source, target, blend.source_subtract, blend.target_subtract, size, false);
  const threshold = Math.fround(blend.threshold);
  const painted = blend.mask && averaged(blend.mask, size);
  for (let i = 0; i < mask.length; i++) {
    if (near && !(near[i] > threshold)) mask[i] = 0;
    if (away && away[i] > threshold) mask[i] = 0;
    if (painted) mask[i] *= painted[i];
  }
  return mask;
}

/** Bring a user's mask to the latents' size by averaging. @param {number[][]} mask rows
 * @param {[number, number]} size @returns {Float32Array} */
function averaged(mask, [height, width]) {
  const out = new Float32Array(height * width);
  const part = (/** @type {number} */ i, /** @type {number} */ cells, /** @type {number} */ count) =>
    [Math.floor((i * cells) / count), Math.ceil(((i + 1) * cells) / count)];
  for (let y = 0; y < height; y++) {
    const rows = mask.slice(...part(y, mask.length, height));
    for (let x = 0; x < width; x++) {
      const cells = rows.flatMap((row) => row.slice(...part(x, row.length, width)));
      out[y * width + x] = cells.reduce((a, b) => a + b, 0) / cells.length;
    }
  }
  return out;
}

/** How strong words are as a part of their maximum, in the stronger prompt; null without words.
 * @param {Maps} source @param {Maps} target @param {number[]} before @param {number[]} after
 * @param {[number, number]} size @param {boolean} pool @returns {Float32Array | null} */
function strongest(source, target, before, after, size, pool) {
  /** @type {Float32Array[]} */
  const parts = [];
  if (before.length) parts.push(strength(heatOf(source, before), source.grid, size, pool));
  if (after.length) parts.push(strength(heatOf(target, after), target.grid, size, pool));
  if (!parts.length) return null;
  return parts.length === 1 ? parts[0] : parts[0].map((value, i) => Math.max(value, parts[1][i]));
}

/** Some tokens' mean map over the sites, (pixels,). @param {Maps} maps @param {number[]} tokens */
function heatOf(maps, tokens) {
  const pixels = maps.grid[0] * maps.grid[1];
  const heat = new Float32Array(pixels);
  for (let site = 0; site < maps.sites; site++) {
    for (let p = 0; p < pixels; p++) {
      const row = (site * pixels + p) * maps.length;
      for (const token of tokens) heat[p] += Math.abs(maps.values[row + token]);
    }
  }
  return heat.map((value) => value / maps.sites);
}

/** @param {Float32Array} heat @param {[number, number]} grid @param {[number, number]} size
 * @param {boolean} pool @returns {Float32Array} */
function strength(heat, grid, size, pool) {
  const wide = pool ? pooled(heat, grid) : heat;
  const large = new Float32Array(size[0] * size[1]);
  for (let y = 0; y < size[0]; y++) {
    for (let x = 0; x < size[1]; x++) {
      const from = Math.floor((y * grid[0]) / size[0]) * grid[1] + Math.floor((x * grid[1]) / size[1]);
      large[y * size[1] + x] = wide[from];
    }
  }
  const most = large.reduce((a, b) => Math.max(a, b), -Infinity);
  return large.map((value) => (most === 0 ? 0 : value / most));
}

/** The largest value of each 3 × 3 neighbourhood. @param {Float32Array} heat
 * @param {[number, number]} grid @returns {Float32Array} */
function pooled(heat, [height, width]) {
  return heat.map((_, p) => {
    const [y, x] = [Math.floor(p / width), p % width];
    let most = -Infinity;
    for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
      for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
        most = Math.max(most, heat[v * width + u]);
      }
    }
    return most;
  });
}
