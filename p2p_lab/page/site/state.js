// What the page shows, in one place. Views read it and are told which of its fields changed.

import { Prompt } from "./method/prompt.js";
import { faderWords, makeRecipe } from "./method/recipe.js";

/** @typedef {import("./protocol.js").Recipe} Recipe */
/** @typedef {import("./protocol.js").Shown} Shown */
/** @typedef {import("./protocol.js").Part} Part */
/** @typedef {{part: Part, index: number}} WordAt */
/** @typedef {{recipe: Recipe, source: Prompt, target: Prompt, shown: Record<Part, Shown | null>,
 *   drawn: Record<Part, Recipe | null>, previews: Record<Part, Float32Array[] | null>,
 *   step: number | null, hovered: WordAt | null, pinned: WordAt | null,
 *   pixel: {part: Part, x: number, y: number} | null, wipe: number, mask: boolean, ready: boolean,
 *   busy: {part: Part, done: number, total: number} | null, message: string, touched: string, idle: boolean,
 *   provider: string, apart: number | null}} Fields
 * apart: how far the card's numbers were from the processor's, where both drew the same */

export class State {
  /** @param {any} facts @param {import("./method/tokenizer.js").Tokenizer} tokenizer
   * @param {Recipe} recipe */
  constructor(facts, tokenizer, recipe) {
    this.facts = facts;
    this.tokenizer = tokenizer;
    const none = () => ({ source: null, reprompt: null, edit: null });
    /** @type {Fields} */
    this.fields = {
      recipe, source: this.prompt(recipe.source), target: this.prompt(recipe.target),
      shown: none(), drawn: none(), previews: none(), step: null, hovered: null, pinned: null,
      pixel: null, wipe: 0, mask: false, ready: false, busy: null, message: "", touched: "", idle: true,
      provider: "", apart: null,
    };
    /** @type {{names: (keyof Fields)[], tell: () => void}[]} */
    this.views = [];
  }

  /** Call a view now and whenever one of some fields changed. @param {(keyof Fields)[]} names
   * @param {() => void} tell */
  watch(names, tell) {
    this.views.push({ names, tell });
    tell();
  }

  /** @param {Partial<Fields>} changes */
  set(changes) {
    const names = /** @type {(keyof Fields)[]} */ (Object.keys(changes));
    const changed = new Set(names.filter((name) => this.fields[name] !== changes[name]));
    Object.assign(this.fields, changes);
    for (const view of this.views) if (view.names.some((name) => changed.has(name))) view.tell();
  }

  /** @param {string} text @returns {Prompt} */
  prompt(text) {
    return new Prompt(text, this.tokenizer);
  }

  /** Change the recipe; faders and local words that no longer stand in a prompt are dropped.
   * @param {Partial<Recipe>} changes @param {string} [touched] the control that the hand is on */
  change(changes, touched = "") {
    const recipe = makeRecipe({ ...this.fields.recipe, ...changes });
    const same = recipe.source === this.fields.recipe.source && recipe.target === this.fields.recipe.target;
    const source = same ? this.fields.source : this.prompt(recipe.source);
    const target = same ? this.fields.target : this.prompt(recipe.target);
    recipe.scales = recipe.scales.filter(([word, n]) => n < target.find(word).length);
    if (!same && !("links" in changes)) recipe.links = null; // they name tokens of the old prompts
    if (recipe.blend) recipe.blend = usableBlend(recipe.blend, source, target);
    const words = same ? {} : { hovered: null, pinned: null, pixel: null };
    this.set({ recipe, source, target, touched, step: null, message: "", ...words });
  }

  /** The prompt whose words are a picture's maps. @param {Part} part @returns {Prompt} */
  promptOf(part) {
    return part === "source" ? this.fields.source : this.fields.target;
  }

  /** Is a picture the one of the present recipe? @param {Part} part @returns {boolean} */
  fresh(part) {
    const drawn = this.fields.drawn[part];
    return drawn !== null && sameFor(part, drawn, this.fields.recipe);
  }

  /** The picture of a part at the step that is looked at. @param {Part} part
   * @returns {Float32Array | null} */
  pictureOf(part) {
    const { step, previews, shown } = this.fields;
    if (step !== null && previews[part]) return previews[part]?.[step] ?? null;
    return shown[part]?.picture ?? null;
  }

  /** The map of a word in a picture, mean over the steps or of the one looked at.
   * @param {Part} part @param {number[]} tokens @returns {Float32Array | null} */
  mapOf(part, tokens) {
    const maps = this.fields.shown[part]?.maps;
    if (!maps) return null;
    const { step } = this.fields;
    const chosen = step === null ? maps : [maps[Math.min(step, maps.length - 1)]];
    const length = this.facts.tokens;
    const mean = new Float32Array(chosen[0].length / length);
    for (const one of chosen) {
      mean.forEach((_, p) => { for (const t of tokens) mean[p] += one[p * length + t] / chosen.length; });
    }
    return mean;
  }

  /** The word that is lit in a picture: the one hovered or kept, or its like in the other prompt.
   * @param {Part} part @returns {number} its number, −1 for none */
  litWord(part) {
    const at = this.fields.hovered ?? this.fields.pinned;
    if (!at) return -1;
    if (at.part === part) return at.index;
    const named = faderWords(this.promptOf(at.part)).find(([i]) => i === at.index);
    if (!named) return -1;
    const other = faderWords(this.promptOf(part));
    const like = other.find(([, word, n]) => word.toLowerCase() === named[1].toLowerCase() && n === named[2]);
    return like ? like[0] : -1;
  }
}

/** @param {Part} part @param {Recipe} one @param {Recipe} other @returns {boolean} */
function sameFor(part, one, other) {
  const picked = (/** @type {Recipe} */ r) => {
    const base = [r.seed, r.steps, r.guidance_scale, r.negative];
    if (part === "source") return JSON.stringify([...base, r.source]);
    return part === "reprompt" ? JSON.stringify([...base, r.target]) : JSON.stringify(r);
  };
  return picked(one) === picked(other);
}

/** @param {[string, string]} blend @param {Prompt} source @param {Prompt} target
 * @returns {[string, string] | null} */
function usableBlend([before, after], source, target) {
  if (!source.find(before).length) return null;
  return target.find(after || before).length ? [before, after] : null;
}
