// How far two ways of computing are apart: one step of drawing, its maps, and the picture.

import { Prompt } from "./method/prompt.js";
import { Sampler } from "./method/sampling.js";

/** @typedef {import("./nets.js").AllNets} AllNets */

/** Draw the same step with both and return the largest difference of any number.
 * @param {AllNets} one @param {AllNets} other @param {any} facts
 * @param {import("./method/tokenizer.js").Tokenizer} tokenizer @returns {Promise<number>} */
export async function difference(one, other, facts, tokenizer) {
  const steps = Math.min(...Object.keys(facts.schedules).map(Number));
  const prompt = new Prompt(facts.examples[0]?.source ?? "", tokenizer);
  const settings = { seed: 0, steps, guidance: facts.guidance_scale };
  const drawn = [];
  for (const nets of [one, other]) {
    drawn.push(await new Sampler(nets, facts).generate(prompt, new Prompt("", tokenizer), settings));
  }
  const [a, b] = drawn;
  return Math.max(furthest(a.picture, b.picture), ...a.maps.map((maps, t) => furthest(maps.values, b.maps[t].values)));
}

/** @param {Float32Array} a @param {Float32Array} b @returns {number} */
function furthest(a, b) {
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
}
