// Edits compiled to three tensors, as `p2p_lab.edits`: an edit is a function from plan to plan.
//
//     M̂_t[:, j] = g_src[t, j] · (M_src,t P)[:, j] + g_tgt[t, j] · M_tgt,t[:, j]

import { alignByHand, alignTokens, alignWords, needlemanWunsch, noCommonWord, spoken, wordBlocks } from "./align.js";
import { AlignmentError, InputError } from "./prompt.js";
import { normal } from "./words.js";

/** @typedef {import("./prompt.js").Prompt} Prompt */
/** @typedef {[number, number]} Window fractions of the schedule, 0 is noise and 1 the image */
/** @typedef {string | [string, number]} Word a word, or one of its places from 0 */
/** @typedef {{source_tokens: number[], target_tokens: number[], source_subtract: number[],
 *   target_subtract: number[], threshold: number, start_step: number, mask: number[][] | null}} BlendPlan */
/** @typedef {{steps: number, length: number, mapper: Float64Array, sourceGain: Float64Array[],
 *   targetGain: Float64Array[], selfSteps: [number, number], selfPixels: number, joint: string,
 *   blend: BlendPlan | null, source: Prompt, target: Prompt}} EditPlan
 * gains (T, L), mapper (L, L) row by row */
/** @typedef {{cross?: Window, self_attention?: Window, self_pixels?: number, joint?: string,
 *   words?: [Word, Window][], links?: [number, number][] | null}} AlignerOptions */
/** @typedef {{kind: "Replace", options: AlignerOptions}} Replace */
/** @typedef {{kind: "Refine", options: AlignerOptions}} Refine */
/** @typedef {{kind: "Reweight", word: string, scale: number, window?: Window,
 *   occurrence?: number | null}} Reweight */
/** @typedef {{kind: "LocalBlend", source_words: Word[], target_words: Word[] | null,
 *   threshold?: number, start?: number, subtract?: Word[], mask?: number[][] | null}} LocalBlend */
/** @typedef {Replace | Refine | Reweight | LocalBlend} Edit */

/** The nearest whole number, halves up, unmoved by the last bits. @param {number} number */
export function nearestStep(number) {
  return Math.floor(roundTo9(number) + 0.5);
}

/** @param {number} x */
function roundTo9(x) {
  return Number(x.toFixed(9));
}

/** @param {Window} window @param {number} steps @returns {[number, number]} */
export function windowSteps(window, steps) {
  return [nearestStep(window[0] * steps), nearestStep(window[1] * steps)];
}

/** The plan that changes nothing. @param {Prompt} source @param {Prompt} target
 * @param {number} steps @returns {EditPlan} */
export function identityPlan(source, target, steps) {
  const length = target.length;
  const mapper = new Float64Array(length * length);
  for (let i = 0; i < length; i++) mapper[i * length + i] = 1;
  return {
    steps, length, mapper, source, target,
    sourceGain: rows(steps, length, 0), targetGain: rows(steps, length, 1),
    selfSteps: [0, 0], selfPixels: 256, joint: "maps", blend: null,
  };
}

/** @param {number} steps @param {number} length @param {number} value */
function rows(steps, length, value) {
  return Array.from({ length: steps }, () => new Float64Array(length).fill(value));
}

/** Fold edits into one plan. @param {Edit[]} edits @param {Prompt} source @param {Prompt} target
 * @param {number} steps @returns {EditPlan} */
export function compileEdits(edits, source, target, steps) {
  const aligners = edits.filter((edit) => edit.kind === "Replace" || edit.kind === "Refine");
  const others = edits.filter((edit) => edit.kind === "Reweight" || edit.kind === "LocalBlend");
  const blends = edits.filter((edit) => edit.kind === "LocalBlend");
  if (aligners.length > 1 || blends.length > 1) {
    throw new InputError("A plan takes one Replace or Refine and one LocalBlend.");
  }
  if (!aligners.length && others.length) aligners.push({ kind: "Refine", options: {} });
  let plan = identityPlan(source, target, steps);
  for (const edit of [...aligners, ...others]) plan = apply(edit, plan);
  const sums = plan.sourceGain.flatMap((row, t) => Array.from(row, (g, j) => g + plan.targetGain[t][j]));
  if (!sums.every((sum) => Number.isFinite(sum))) {
    throw new InputError("The scales multiply to a number too large to compute with. Lower them.");
  }
  return plan;
}

/** @param {Edit} edit @param {EditPlan} plan @returns {EditPlan} */
function apply(edit, plan) {
  if (edit.kind === "Reweight") return reweighted(edit, plan);
  if (edit.kind === "LocalBlend") return { ...plan, blend: blendOf(edit, plan) };
  return aligned(edit, plan);
}

/** @param {Replace | Refine} edit @param {EditPlan} plan @returns {EditPlan} */
function aligned(edit, plan) {
  const { source, target, steps, length } = plan;
  const options = edit.options;
  if (edit.kind === "Refine" && noCommonWord(source, target)) {
    throw new AlignmentError(
      `'${source.text}' and '${target.text}' share no word, so Refine has nothing to keep. Use ` +
      "Replace to swap words.",
    );
  }
  const base = edit.kind === "Replace" ? alignWords(source, target) : alignTokens(source, target);
  const found = options.links ? alignByHand(base, source, target, options.links) : base;
  const [sourceGain, targetGain] = [rows(steps, length, 0), rows(steps, length, 1)];
  const usualWindow = windowSteps(options.cross ?? [0, 0.8], steps);
  const windows = Array.from({ length }, () => usualWindow);
  for (const [word, window] of options.words ?? []) {
    const [text, place] = typeof word === "string" ? [word, null] : word;
    for (const token of target.tokensOf(text, place)) windows[token] = windowSteps(window, steps);
  }
  for (let t = 0; t < steps; t++) {
    for (let j = 0; j < length; j++) {
      if (!found.matched[j] || t < windows[j][0] || t >= windows[j][1]) continue;
      sourceGain[t][j] = found.gain[j];
      targetGain[t][j] = 0;
    }
  }
  return {
    ...plan, sourceGain, targetGain, mapper: found.mapper,
    selfSteps: windowSteps(options.self_attention ?? [0, 0.4], steps),
    selfPixels: options.self_pixels ?? 256, joint: options.joint ?? "maps",
  };
}

/** @param {Reweight} edit @param {EditPlan} plan @returns {EditPlan} */
function reweighted(edit, plan) {
  const tokens = new Set(plan.target.tokensOf(edit.word, edit.occurrence ?? null));
  const [start, stop] = windowSteps(edit.window ?? [0, 1], plan.steps);
  /** @param {Float64Array} row @param {number} t */
  const scaled = (row, t) =>
    t < start || t >= stop ? row : row.map((gain, j) => (tokens.has(j) ? gain * edit.scale : gain));
  return { ...plan, sourceGain: plan.sourceGain.map(scaled), targetGain: plan.targetGain.map(scaled) };
}

/** @param {LocalBlend} edit @param {EditPlan} plan @returns {BlendPlan} */
function blendOf(edit, plan) {
  const after = edit.target_words ?? edit.source_words;
  const minus = edit.subtract ?? [];
  if (!edit.source_words.length && !after.length && !edit.mask) {
    throw new InputError("A local edit needs a region: name words of the source or of the edit, or paint a mask.");
  }
  const present = (/** @type {Prompt} */ prompt) => minus.filter((word) => stands(prompt, word));
  for (const word of minus) if (!stands(plan.source, word)) allTokens(plan.target, [word]);
  return {
    source_tokens: allTokens(plan.source, edit.source_words),
    target_tokens: allTokens(plan.target, after),
    source_subtract: allTokens(plan.source, present(plan.source)),
    target_subtract: allTokens(plan.target, present(plan.target)),
    threshold: edit.threshold ?? 0.3,
    start_step: nearestStep((edit.start ?? 0.2) * plan.steps),
    mask: edit.mask ?? null,
  };
}

/** @param {Prompt} prompt @param {Word} word */
function stands(prompt, word) {
  const [text, place] = typeof word === "string" ? [word, 0] : word;
  return prompt.find(text).length > place;
}

/** @param {Prompt} prompt @param {Word[]} words @returns {number[]} */
function allTokens(prompt, words) {
  const found = words.flatMap((word) =>
    typeof word === "string" ? prompt.tokensOf(word) : prompt.tokensOf(...word));
  return [...new Set(found)].sort((a, b) => a - b);
}

/** Choose the edit that two prompts ask for. @param {Prompt} source @param {Prompt} target
 * @returns {"Replace" | "Refine"} */
export function defaultKind(source, target) {
  const [before, after] = [source, target].map((prompt) => prompt.words.map(normal));
  if (before.length === after.length && before.every((word, i) => word === after[i])) return "Refine";
  const pairs = needlemanWunsch(before, after);
  const within = pairs.length === before.length || pairs.length === after.length;
  if (within || moved(source, target)) return "Refine";
  const swapped = wordBlocks(source, target).some(([old, fresh]) => {
    const words = [source.phrase(old[0], old[old.length - 1] + 1), target.phrase(fresh[0], fresh[fresh.length - 1] + 1)];
    return normal(words[0]) !== normal(words[1]);
  });
  return swapped ? "Replace" : "Refine";
}

/** Do equally many words match better out of place? @param {Prompt} source @param {Prompt} target */
function moved(source, target) {
  const [before, after] = [source, target].map(
    (prompt) => spoken(prompt).map((word) => normal(prompt.words[word])));
  const inPlace = before.filter((word, i) => word === after[i]).length;
  return before.length === after.length && inPlace < needlemanWunsch(before, after).length;
}

/** The plan as Python's `EditPlan.to_json` writes it. @param {EditPlan} plan */
export function planToJson(plan) {
  /** @type {[number, number, number][]} */
  const mapper = [];
  plan.mapper.forEach((value, at) => {
    if (value) mapper.push([Math.floor(at / plan.length), at % plan.length, value]);
  });
  return {
    format: "p2p_lab.EditPlan/1", length: plan.length, mapper,
    source_gain: plan.sourceGain.map((row) => [...row]),
    target_gain: plan.targetGain.map((row) => [...row]),
    self_steps: [...plan.selfSteps, 1], self_pixels: plan.selfPixels,
    blend: plan.blend && { ...plan.blend, toward: null },
    source: plan.source.toDict(), target: plan.target.toDict(),
    compat: null, joint: plan.joint, toward: null, moves: [], second: null,
  };
}

/** What a plan does in one step, as text: equal texts do the same. @param {EditPlan} plan
 * @param {number} step */
export function stepKey(plan, step) {
  const used = [...plan.sourceGain[step]].map((gain, j) =>
    gain ? [gain, ...plan.mapper.filter((_, at) => at % plan.length === j)].join() : "");
  const injects = step >= plan.selfSteps[0] && step < plan.selfSteps[1];
  const blends = plan.blend !== null && step >= plan.blend.start_step;
  return JSON.stringify([
    used, [...plan.targetGain[step]], injects ? plan.selfPixels : 0, blends ? plan.blend : null,
  ]);
}
