// The denoising loop with guidance, tape and local edit: `p2p_lab.sampling`, for one picture.
//
// The source is drawn once and its tape kept; an edit then runs the target alone. Edits of one source
// that agree on their first steps share them. What computes is given as `nets`, so that a page, a
// worker and a test run the same lines.

import { blendMask, summed } from "./blend.js";
import { identityPlan, stepKey } from "./plan.js";
import { InputError } from "./prompt.js";
import { noiseOf } from "./random.js";

/** @typedef {import("./plan.js").EditPlan} EditPlan */
/** @typedef {import("./prompt.js").Prompt} Prompt */
/** @typedef {import("./blend.js").Maps} Maps */
/** @typedef {{latents: number[], size: number[], tokens: number, width: number, prediction: string,
 *   schedules: Record<string, {clip: number | null, rows: [number, number, number][]}>,
 *   self_pixels: number[], tape: number, map_grid: [number, number], blend_grid: [number, number]}} Facts */
/** @typedef {{latents: Float32Array, time: number, text: Float32Array, source_text: Float32Array,
 *   guidance: number, mapper: Float32Array, source_gain: Float32Array, target_gain: Float32Array,
 *   self_gate: Float32Array, tape: Float32Array, record: boolean}} StepInputs */
/** @typedef {{noise_pred: Float32Array, maps: Float32Array, blend_maps: Float32Array,
 *   new_tape: Float32Array | null}} StepOutputs */
/** @typedef {{encode: (ids: number[]) => Promise<Float32Array>,
 *   step: (inputs: StepInputs) => Promise<StepOutputs>,
 *   decode: (latents: Float32Array) => Promise<Float32Array>}} Nets */
/** @typedef {{latents: Float32Array[], clean: Float32Array[], maps: Maps[], blendMaps: Maps[],
 *   tapes: Float32Array[], masks: Float32Array[], picture: Float32Array}} Drawing
 * latents T + 1 of them; clean what each step believes the picture to be, T of them */
/** @typedef {Drawing & {prompt: Prompt, seed: number, steps: number, guidance: number,
 *   text: Float32Array, negative: Float32Array}} Source */
/** @typedef {{onStep?: (done: number, total: number) => void, pause?: () => Promise<void>}} Watch
 * pause is awaited before each step; it throws to stop the drawing */

/** One DDIM step (Song et al. 2021, eq. 12) and the clean latents that it believes in.
 * @param {Float32Array} z @param {Float32Array} predicted what the denoiser predicts
 * @param {number} before ᾱ @param {number} after ᾱ′ @param {string} prediction
 * @param {number | null} clip @returns {{next: Float32Array, clean: Float32Array}} */
export function ddimStep(z, predicted, before, after, prediction, clip) {
  const [a, b] = [Math.fround(before ** 0.5), Math.fround((1 - before) ** 0.5)];
  const [c, d] = [Math.fround(after ** 0.5), Math.fround((1 - after) ** 0.5)];
  const next = new Float32Array(z.length);
  const clean = new Float32Array(z.length);
  for (let i = 0; i < z.length; i++) {
    let x = predicted[i];
    let noise = (z[i] - a * x) / b; // where the denoiser predicts the clean latents
    if (prediction === "epsilon") [x, noise] = [(z[i] - b * predicted[i]) / a, predicted[i]];
    if (prediction === "v_prediction") [x, noise] = [a * z[i] - b * predicted[i], a * predicted[i] + b * z[i]];
    if (clip !== null) x = Math.min(Math.max(x, -clip), clip);
    clean[i] = x;
    next[i] = c * x + d * noise;
  }
  return { next, clean };
}

export class Sampler {
  /** @param {Nets} nets @param {Facts} facts */
  constructor(nets, facts) {
    this.nets = nets;
    this.facts = facts;
    /** @type {Map<string, Float32Array>} */
    this.encoded = new Map();
  }

  /** @param {Prompt} prompt @returns {Promise<Float32Array>} its embedding (L, D), kept */
  async embed(prompt) {
    const key = prompt.ids.join();
    const found = this.encoded.get(key) ?? (await this.nets.encode(prompt.ids));
    this.encoded.set(key, found);
    if (this.encoded.size > 64) this.encoded.delete([...this.encoded.keys()][0]);
    return found;
  }

  /** Draw a picture of a prompt and keep what edits need of it.
   * @param {Prompt} prompt @param {Prompt} negative
   * @param {{seed: number, steps: number, guidance: number}} settings @param {Watch} [watch]
   * @returns {Promise<Source>} */
  async generate(prompt, negative, settings, watch = {}) {
    const count = this.facts.latents.reduce((a, b) => a * b);
    this.schedule(settings.steps);
    const noise = noiseOf(settings.seed, count);
    const texts = { text: await this.embed(prompt), negative: await this.embed(negative) };
    const plan = identityPlan(prompt, prompt, settings.steps);
    const drawing = await this.denoise({ ...settings, ...texts, sourceText: texts.text, plan, source: null }, begun(noise), watch);
    return { ...drawing, ...settings, ...texts, prompt };
  }

  /** Draw an edit of a source. @param {Source} source @param {EditPlan} plan
   * @param {{shared?: {plan: EditPlan, drawing: Drawing}[]} & Watch} [options]
   * @returns {Promise<Drawing>} */
  async edit(source, plan, { shared = [], ...watch } = {}) {
    const { steps, guidance, negative } = source;
    const text = await this.embed(plan.target);
    const reached = this.reaching(plan);
    const start = resumed(reached, shared) ?? begun(source.latents[0]);
    return this.denoise({ steps, guidance, text, negative, sourceText: source.text, plan: reached, source }, start, watch);
  }

  /** Raise the limit of self-attention to the smallest site, if no site is as small.
   * @param {EditPlan} plan @returns {EditPlan} */
  reaching(plan) {
    const smallest = Math.min(...this.facts.self_pixels);
    return plan.selfPixels < smallest && plan.selfPixels === 256 ? { ...plan, selfPixels: smallest } : plan;
  }

  /** @param {number} steps */
  schedule(steps) {
    const table = this.facts.schedules[steps];
    if (!table) {
      throw new InputError(
        `steps=${steps} is not in this page's tables. It has ${Object.keys(this.facts.schedules).join(", ")}.`,
      );
    }
    return table;
  }

  /** @param {{steps: number, guidance: number, text: Float32Array, negative: Float32Array,
   *   sourceText: Float32Array, plan: EditPlan, source: Source | null}} work
   * @param {Omit<Drawing, "picture">} path what is drawn so far @param {Watch} watch
   * @returns {Promise<Drawing>} */
  async denoise(work, path, watch) {
    const { steps, plan, source } = work;
    const table = this.schedule(steps);
    const text = new Float32Array([...work.negative, ...work.text]);
    for (let step = path.latents.length - 1; step < steps; step++) {
      await watch.pause?.();
      const z = path.latents[step];
      const [time, before, after] = table.rows[step];
      const inputs = this.inputs(work, step, z, text);
      const out = await this.nets.step({ ...inputs, time });
      const { next, clean } = ddimStep(z, out.noise_pred, before, after, this.facts.prediction, table.clip);
      path.clean.push(clean);
      path.maps.push(this.maps(out.maps, this.facts.map_grid));
      path.blendMaps.push(this.maps(out.blend_maps, this.facts.blend_grid));
      if (!source && out.new_tape) path.tapes.push(out.new_tape);
      path.latents.push(source && plan.blend ? this.blended(next, step, source, plan, path) : next);
      watch.onStep?.(step + 1, steps);
    }
    const last = path.latents[steps];
    if (!last.every(Number.isFinite)) {
      throw new InputError(
        "The numbers grew too large to compute with, so there is no picture. Bring the faders nearer to 1.",
      );
    }
    return { ...path, picture: await this.nets.decode(last) };
  }

  /** @param {{guidance: number, sourceText: Float32Array, plan: EditPlan, source: Source | null}} work
   * @param {number} step @param {Float32Array} latents @param {Float32Array} text
   * @returns {Omit<StepInputs, "time">} */
  inputs({ guidance, sourceText, plan, source }, step, latents, text) {
    const injects = step >= plan.selfSteps[0] && step < plan.selfSteps[1];
    const gates = this.facts.self_pixels.map((pixels) => Number(injects && pixels <= plan.selfPixels));
    return {
      latents, text, guidance, source_text: sourceText,
      mapper: new Float32Array(plan.mapper),
      source_gain: new Float32Array(plan.sourceGain[step]),
      target_gain: new Float32Array(plan.targetGain[step]),
      self_gate: new Float32Array(gates),
      tape: source ? source.tapes[step] : new Float32Array(this.facts.tape),
      record: !source,
    };
  }

  /** @param {Float32Array} values @param {[number, number]} grid @returns {Maps} */
  maps(values, grid) {
    const length = this.facts.tokens;
    return { values, grid, length, sites: values.length / (grid[0] * grid[1] * length) };
  }

  /** Keep the source outside the mask. @param {Float32Array} latents @param {number} step
   * @param {Source} source @param {EditPlan} plan @param {Omit<Drawing, "picture">} path
   * @returns {Float32Array} */
  blended(latents, step, source, plan, path) {
    const [, height, width] = this.facts.latents;
    const positions = height * width;
    const blend = plan.blend;
    if (!blend || step < blend.start_step) {
      path.masks.push(new Float32Array(positions).fill(1));
      return latents;
    }
    const sums = [source, path].map((one) => summed(one.blendMaps.slice(0, step + 1)));
    const mask = blendMask(sums[0], sums[1], blend, [height, width]);
    path.masks.push(mask);
    const old = source.latents[step + 1];
    return latents.map((value, i) => Math.fround(old[i] + mask[i % positions] * Math.fround(value - old[i])));
  }
}

/** @param {Float32Array} noise @returns {Omit<Drawing, "picture">} */
function begun(noise) {
  return { latents: [noise], clean: [], maps: [], blendMaps: [], tapes: [], masks: [] };
}

/** The steps that an earlier edit has in common with a plan; null where there are none.
 * @param {EditPlan} plan @param {{plan: EditPlan, drawing: Drawing}[]} shared
 * @returns {Omit<Drawing, "picture"> | null} */
function resumed(plan, shared) {
  let [best, most] = [/** @type {{plan: EditPlan, drawing: Drawing} | null} */ (null), 0];
  for (const one of shared) {
    const steps = sharedSteps(one.plan, plan);
    if (steps > most) [best, most] = [one, steps];
  }
  if (!best) return null;
  const from = best.drawing;
  const masks = from.masks.length ? from.masks.slice(0, most) : [];
  const positions = from.masks[0]?.length ?? 0;
  while (plan.blend && positions && masks.length < most) masks.push(new Float32Array(positions).fill(1));
  return {
    latents: from.latents.slice(0, most + 1), clean: from.clean.slice(0, most),
    maps: from.maps.slice(0, most), blendMaps: from.blendMaps.slice(0, most), tapes: [], masks,
  };
}

/** On how many first steps two plans do the same. @param {EditPlan} one @param {EditPlan} other */
export function sharedSteps(one, other) {
  const same = one.steps === other.steps && one.target.text === other.target.text;
  if (!same || (one.blend === null) !== (other.blend === null)) return 0;
  let step = 0;
  while (step < one.steps && stepKey(one, step) === stepKey(other, step)) step += 1;
  return step;
}

/** The mean map of some tokens, (h, w): over sites, and over steps unless one is named.
 * @param {Maps[]} steps @param {number[]} tokens @param {number | null} [step]
 * @returns {Float32Array} */
export function meanMap(steps, tokens, step = null) {
  const chosen = step === null ? steps : [steps[step]];
  const { grid, length, sites } = chosen[0];
  const pixels = grid[0] * grid[1];
  const mean = new Float64Array(pixels);
  for (const one of chosen) {
    for (let site = 0; site < sites; site++) {
      for (let p = 0; p < pixels; p++) {
        const row = (site * pixels + p) * length;
        for (const token of tokens) mean[p] += one.values[row + token];
      }
    }
  }
  return Float32Array.from(mean, (value) => value / (chosen.length * sites));
}

/** How far two pictures are apart, as Python's `psnr`. @param {Float32Array} a
 * @param {Float32Array} b @returns {number} dB */
export function psnr(a, b) {
  const error = a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0) / a.length;
  return error === 0 ? Infinity : -10 * Math.log10(error);
}

/** The share of pixels that changed by more than a part of the range in any channel.
 * @param {Float32Array} a (3, H, W) @param {Float32Array} b @param {number} [least]
 * @returns {number} from 0 to 1 */
export function changedShare(a, b, least = 8 / 255) {
  const pixels = a.length / 3;
  let changed = 0;
  for (let p = 0; p < pixels; p++) {
    const most = Math.max(...[0, 1, 2].map((c) => Math.abs(a[c * pixels + p] - b[c * pixels + p])));
    changed += Number(most > least);
  }
  return changed / pixels;
}
