// The nearest known words to an unknown one, as Python's `difflib.get_close_matches` finds them
// (Ratcliff and Obershelp 1988), and which words of a prompt a model has never seen.

import { isSpoken } from "./words.js";

/** @typedef {import("./prompt.js").Prompt} Prompt */

/** @param {Prompt} prompt @param {Set<string>} known lower case @returns {Set<number>} word numbers */
export function unknownWords(prompt, known) {
  const words = prompt.words;
  const strange = words.flatMap((word, i) =>
    known.size && isSpoken(word) && !known.has(word.toLowerCase()) ? [i] : []);
  return new Set(strange);
}

/** @param {string} word @param {string[]} known @param {number} [count] @param {number} [cutoff]
 * @returns {string[]} the nearest, best first */
export function closeMatches(word, known, count = 3, cutoff = 0.5) {
  const letters = Array.from(word);
  const scored = known
    .map((one) => ({ one, score: ratio(Array.from(one), letters) }))
    .filter(({ score }) => score >= cutoff);
  scored.sort((a, b) => b.score - a.score || (a.one < b.one ? 1 : -1));
  return scored.slice(0, count).map(({ one }) => one);
}

/** @param {string[]} a @param {string[]} b @returns {number} 2 · matches / all letters */
function ratio(a, b) {
  const total = a.length + b.length;
  return total ? (2 * matches(a, b, 0, a.length, 0, b.length)) / total : 1;
}

/** @param {string[]} a @param {string[]} b @param {number} a0 @param {number} a1 @param {number} b0
 * @param {number} b1 @returns {number} */
function matches(a, b, a0, a1, b0, b1) {
  let [best, x, y] = [0, a0, b0];
  for (let i = a0; i < a1; i++) {
    for (let j = b0; j < b1; j++) {
      let k = 0;
      while (i + k < a1 && j + k < b1 && a[i + k] === b[j + k]) k += 1;
      if (k > best) [best, x, y] = [k, i, j];
    }
  }
  if (!best) return 0;
  return best + matches(a, b, a0, x, b0, y) + matches(a, b, x + best, a1, y + best, b1);
}
