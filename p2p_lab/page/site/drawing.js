// What is drawn for a recipe, and what is kept of it: the source with its tape, the target without an
// edit, the edit, and drafts of edits that the hand may ask for next.

import { compileEdits, stepKey } from "./method/plan.js";
import { Prompt } from "./method/prompt.js";
import { editsOf } from "./method/recipe.js";
import { Sampler } from "./method/sampling.js";

/** @typedef {import("./method/recipe.js").Recipe} Recipe */
/** @typedef {import("./method/plan.js").EditPlan} EditPlan */
/** @typedef {import("./method/sampling.js").Source} Source */
/** @typedef {import("./method/sampling.js").Drawing} Drawing */
/** @typedef {import("./method/sampling.js").Watch} Watch */
/** @typedef {import("./nets.js").Answers} Answers */
/** @typedef {{plan: EditPlan, drawing: Drawing, judged: Answers | null, seconds: number,
 *   previews: Float32Array[] | null, key: string}} Drawn */

const KEPT = 48; // edits of one source
const SHARING = 6; // the newest of them whose first steps an edit may share

export class Desk {
  /** @param {import("./nets.js").AllNets} nets @param {any} facts
   * @param {import("./method/tokenizer.js").Tokenizer} tokenizer */
  constructor(nets, facts, tokenizer) {
    this.nets = nets;
    this.facts = facts;
    this.tokenizer = tokenizer;
    this.sampler = new Sampler(nets, facts);
    /** @type {Map<string, Drawn & {drawing: Source}>} */
    this.sources = new Map();
    /** @type {Map<string, Drawn>} */
    this.edits = new Map();
  }

  /** @param {Recipe} recipe */
  settings(recipe) {
    return {
      seed: recipe.seed ?? 0,
      steps: recipe.steps ?? this.facts.steps,
      guidance: recipe.guidance_scale ?? this.facts.guidance_scale,
    };
  }

  /** @param {string} text @param {Recipe} recipe @returns {string} which picture it is */
  sourceKey(text, recipe) {
    return JSON.stringify([text, recipe.negative, this.settings(recipe)]);
  }

  /** A picture of a prompt alone, kept. @param {string} text @param {Recipe} recipe
   * @param {Watch} watch @returns {Promise<Drawn & {drawing: Source}>} */
  async source(text, recipe, watch) {
    const key = this.sourceKey(text, recipe);
    const kept = this.sources.get(key);
    if (kept) return kept;
    const start = performance.now();
    const prompt = new Prompt(text, this.tokenizer);
    const negative = new Prompt(recipe.negative, this.tokenizer);
    const drawing = await this.sampler.generate(prompt, negative, this.settings(recipe), watch);
    const judged = (await this.nets.judge?.(drawing.picture)) ?? null;
    const plan = compileEdits([], prompt, prompt, drawing.steps);
    const seconds = (performance.now() - start) / 1000;
    const drawn = { plan, drawing, judged, seconds, key, previews: null };
    keep(this.sources, key, drawn, 4);
    return drawn;
  }

  /** @param {Recipe} recipe @returns {{plan: EditPlan, key: string}} */
  plan(recipe) {
    const [source, target] = [recipe.source, recipe.target].map((text) => new Prompt(text, this.tokenizer));
    const { steps } = this.settings(recipe);
    const plan = compileEdits(editsOf(recipe, source, target), source, target, steps);
    const keys = Array.from({ length: steps }, (_, step) => stepKey(plan, step));
    return { plan, key: JSON.stringify([this.sourceKey(recipe.source, recipe), recipe.target, keys]) };
  }

  /** An edit of a source, kept. @param {Drawn & {drawing: Source}} source @param {Recipe} recipe
   * @param {Watch} watch @returns {Promise<Drawn>} */
  async edit(source, recipe, watch) {
    const { plan, key } = this.plan(recipe);
    const kept = this.edits.get(key);
    if (kept) return kept;
    const start = performance.now();
    const shared = [...this.edits.values()].filter((one) => one.plan.source.text === recipe.source
      && one.drawing.latents[0] === source.drawing.latents[0]).slice(-SHARING);
    const drawing = await this.sampler.edit(source.drawing, plan, { shared, ...watch });
    const judged = (await this.nets.judge?.(drawing.picture)) ?? null;
    const seconds = (performance.now() - start) / 1000;
    const drawn = { plan, drawing, judged, seconds, key, previews: null };
    keep(this.edits, key, drawn, KEPT);
    return drawn;
  }

  /** @param {Recipe} recipe @returns {boolean} is its edit drawn already */
  has(recipe) {
    return this.edits.has(this.plan(recipe).key);
  }

  /** What the picture looked like after each step. @param {Drawn} drawn
   * @returns {Promise<Float32Array[]>} (3, H, W) each */
  async previews(drawn) {
    if (!drawn.previews) {
      const earlier = [];
      for (const clean of drawn.drawing.clean.slice(0, -1)) earlier.push(await this.nets.decode(clean));
      drawn.previews = [...earlier, drawn.drawing.picture];
    }
    return drawn.previews;
  }
}

/** @template T @param {Map<string, T>} kept @param {string} key @param {T} value @param {number} most */
function keep(kept, key, value, most) {
  kept.set(key, value);
  if (kept.size > most) kept.delete([...kept.keys()][0]);
}

/** The maps of each step, mean over the sites, (pixels, L). @param {Drawing} drawing
 * @returns {Float32Array[]} */
export function shownMaps(drawing) {
  return drawing.maps.map(({ values, sites }) => {
    const mean = new Float32Array(values.length / sites);
    values.forEach((value, i) => { mean[i % mean.length] += value / sites; });
    return mean;
  });
}
