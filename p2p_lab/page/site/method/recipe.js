// All that an edit depends on, in the form of `p2p_lab.recipes.Recipe`: a link holds its JSON,
// and `EditPanel.from_recipe` opens it.

import { defaultKind } from "./plan.js";
import { InputError } from "./prompt.js";
import { isSpoken, normal } from "./words.js";

/** @typedef {import("./prompt.js").Prompt} Prompt */
/** @typedef {import("./plan.js").Edit} Edit */
/** @typedef {{source: string, target: string, seed: number | null, method: string, cross: number,
 *   self_attention: number, scales: [string, number, number][], blend: [string, string] | null,
 *   threshold: number, steps: number | null, guidance_scale: number | null, negative: string,
 *   size: [number, number] | null, sampler: string, model: string, start: number, joint: string,
 *   made_by: string, mask: string[], moves: [string, number, number, number][],
 *   links: [number, number][] | null, format: number}} Recipe */

export const FORMAT = 1;
const METHODS = ["auto", "Replace", "Refine"];

/** @param {Partial<Recipe>} [changes] @returns {Recipe} */
export function makeRecipe(changes = {}) {
  return {
    source: "", target: "", seed: 0, method: "auto", cross: 0.8, self_attention: 0.4, scales: [],
    blend: null, threshold: 0.3, steps: null, guidance_scale: null, negative: "", size: null,
    sampler: "ddim", model: "", start: 0.2, joint: "maps", made_by: "", mask: [], moves: [], links: null,
    format: FORMAT, ...changes,
  };
}

/** The edits that a recipe asks for. @param {Recipe} recipe @param {Prompt} source
 * @param {Prompt} target @returns {Edit[]} */
export function editsOf(recipe, source, target) {
  if (recipe.sampler !== "ddim") {
    throw new InputError(`This recipe samples with ${recipe.sampler}, and the page with ddim. Open it in EditPanel.`);
  }
  if (recipe.moves.length) {
    throw new InputError("This recipe moves an object, which the page cannot do. Open it in EditPanel.");
  }
  const kind = recipe.method === "auto" ? defaultKind(source, target) : recipe.method;
  /** @type {Edit[]} */
  const found = [{
    kind: kind === "Replace" ? "Replace" : "Refine",
    options: {
      cross: [0, recipe.cross], self_attention: [0, recipe.self_attention], joint: recipe.joint,
      links: recipe.links,
    },
  }];
  for (const [word, occurrence, scale] of recipe.scales) {
    const many = target.find(word).length > 1;
    found.push({ kind: "Reweight", word, scale, occurrence: many ? occurrence : null });
  }
  if (recipe.blend || recipe.mask.length) {
    const [before, after] = (recipe.blend ?? ["", ""]).map(listed);
    const mask = recipe.mask.length ? recipe.mask.map((row) => Array.from(row, Number)) : null;
    const same = !after.length || (after.length === before.length && after.every((w, i) => w === before[i]));
    found.push({
      kind: "LocalBlend", source_words: before, target_words: same ? null : after,
      threshold: recipe.threshold, start: recipe.start, mask,
    });
  }
  return found;
}

/** Number, word and occurrence of each word that can have a fader. @param {Prompt} prompt
 * @returns {[number, string, number][]} */
export function faderWords(prompt) {
  /** @type {Map<string, number>} */
  const seen = new Map();
  /** @type {[number, string, number][]} */
  const found = [];
  prompt.words.forEach((word, i) => {
    if (!isSpoken(word)) return;
    const n = seen.get(normal(word)) ?? 0;
    seen.set(normal(word), n + 1);
    found.push([i, word, n]);
  });
  return found;
}

/** Read 'cat, hat' as two words; a phrase with a comma of its own stands in double quotes.
 * @param {string} words @returns {string[]} */
export function listed(words) {
  /** @type {string[]} */
  const found = [];
  for (const line of words.split(/\r\n|\r|\n/)) {
    let [field, quoted, fresh] = ["", false, true];
    for (let i = 0; i < line.length; i++) {
      const letter = line[i];
      if (quoted && letter === '"' && line[i + 1] === '"') [field, i] = [field + '"', i + 1];
      else if (quoted && letter === '"') quoted = false;
      else if (!quoted && fresh && letter === '"') [quoted, fresh] = [true, false];
      else if (!quoted && letter === ",") {
        found.push(field);
        [field, fresh] = ["", true];
      } else if (!(fresh && letter === " ")) [field, fresh] = [field + letter, false];
    }
    found.push(field);
  }
  return found.map((word) => word.trim()).filter((word) => word);
}

/** Write words as `listed` reads them. @param {string[]} words @returns {string} */
export function written(words) {
  return words.map((word) => (/[",\r\n]/.test(word) ? `"${word.replaceAll('"', '""')}"` : word)).join(", ");
}

/** Read a recipe from JSON, from a link or a file. @param {string} text @returns {Recipe} */
export function recipeFromJson(text) {
  /** @type {any} */
  let fields;
  try {
    fields = JSON.parse(text);
  } catch {
    throw new InputError("This is no saved recipe: it is not JSON.");
  }
  const wrong = wrongFields(fields);
  if (wrong.length) {
    throw new InputError(`This is no saved recipe of format ${FORMAT}: ${wrong.join(", ")} cannot be read.`);
  }
  return makeRecipe(fields);
}

/** @param {any} fields @returns {string[]} names of the fields that no recipe can have so */
function wrongFields(fields) {
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) return ["everything"];
  const defaults = makeRecipe();
  const whole = { ...defaults, ...fields };
  const part = (/** @type {any} */ x) => isNumber(x) && x >= 0 && x <= 1;
  const count = (/** @type {any} */ x) => Number.isInteger(x) && x >= 0;
  const texts = (/** @type {any} */ x, /** @type {number} */ n) =>
    Array.isArray(x) && x.length === n && x.every((one) => typeof one === "string");
  const pairs = (/** @type {any} */ list, /** @type {(x: any) => boolean} */ good) =>
    Array.isArray(list) && list.every((one) => Array.isArray(one) && one.length === 2 && one.every(good));
  /** @type {Record<string, boolean>} */
  const right = {
    format: whole.format === FORMAT,
    source: typeof whole.source === "string",
    target: typeof whole.target === "string",
    negative: typeof whole.negative === "string",
    model: typeof whole.model === "string",
    made_by: typeof whole.made_by === "string",
    seed: whole.seed === null || (count(whole.seed) && Number.isSafeInteger(whole.seed)),
    method: METHODS.includes(whole.method),
    cross: part(whole.cross),
    self_attention: part(whole.self_attention),
    threshold: part(whole.threshold),
    start: part(whole.start),
    scales: Array.isArray(whole.scales) && whole.scales.every((/** @type {any} */ one) =>
      Array.isArray(one) && one.length === 3 && typeof one[0] === "string" && count(one[1]) && isNumber(one[2])),
    blend: whole.blend === null || texts(whole.blend, 2),
    steps: whole.steps === null || (count(whole.steps) && whole.steps > 0),
    guidance_scale: whole.guidance_scale === null || (isNumber(whole.guidance_scale) && whole.guidance_scale >= 1),
    size: whole.size === null || (Array.isArray(whole.size) && whole.size.length === 2 && whole.size.every(count)),
    sampler: typeof whole.sampler === "string",
    joint: ["maps", "queries"].includes(whole.joint),
    mask: Array.isArray(whole.mask) && whole.mask.every((/** @type {any} */ row) =>
      typeof row === "string" && /^[01]*$/.test(row) && row.length === whole.mask[0].length),
    moves: Array.isArray(whole.moves) && whole.moves.every((/** @type {any} */ one) =>
      Array.isArray(one) && one.length === 4 && typeof one[0] === "string" && one.slice(1).every(isNumber)),
    links: whole.links === null || pairs(whole.links, count),
  };
  const unknown = Object.keys(fields).filter((name) => !(name in defaults));
  return [...unknown, ...Object.keys(right).filter((name) => !right[name])];
}

/** @param {any} x */
function isNumber(x) {
  return typeof x === "number" && Number.isFinite(x);
}

/** @param {Recipe} recipe @returns {string} the part of a link behind the # */
export function toHash(recipe) {
  return `#recipe=${encodeURIComponent(JSON.stringify(recipe))}`;
}

/** @param {string} hash of a link @returns {Recipe | null} null where it holds none */
export function fromHash(hash) {
  const match = /[#&]recipe=([^&]*)/.exec(hash);
  if (!match) return null;
  try {
    return recipeFromJson(decodeURIComponent(match[1]));
  } catch (error) {
    if (error instanceof URIError) throw new InputError("The link was cut: its recipe cannot be read.");
    throw error;
  }
}
