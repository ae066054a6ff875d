// Change a word without a keyboard: a small menu with the words that can stand in its place.

import { faderWords } from "../method/recipe.js";
import { el } from "./dom.js";

/** @typedef {import("../state.js").State} State */
/** @typedef {import("../protocol.js").Part} Part */
/** @typedef {import("../method/prompt.js").Prompt} Prompt */

/** @param {State} state @param {Part} part whose prompt the word is in @param {number} index of it
 * @returns {HTMLElement | null} null where nothing is known to stand for it */
export function swapMenu(state, part, index) {
  const prompt = state.promptOf(part);
  const word = prompt.words[index];
  const kinds = /** @type {string[][]} */ (state.facts.kinds);
  const kind = kinds.find((names) => names.includes(word.toLowerCase()));
  if (!kind) return null;
  const select = el("select", {
    class: "swap", "aria-label": `Another word for ${word}`, title: `Another word for ${word}`,
    onchange: () => state.change(swapped(state, part, index, select.value), "word"),
  }, kind.map((name) => el("option", { value: name, selected: name === word.toLowerCase() }, name)));
  return select;
}

/** The prompts with another word. One that is changed in the source is changed in the edit too,
 * where it stands there as well. @param {State} state @param {Part} part @param {number} index
 * @param {string} word @returns {Partial<import("../protocol.js").Recipe>} */
function swapped(state, part, index, word) {
  const { source, target } = state.fields;
  if (part !== "source") return { target: withWord(target, index, word) };
  const place = faderWords(source).find(([i]) => i === index);
  const like = faderWords(target).find(([, w, n]) => place && w === place[1] && n === place[2]);
  const both = like ? { target: withWord(target, like[0], word) } : {};
  return { source: withWord(source, index, word), ...both };
}

/** @param {Prompt} prompt @param {number} index @param {string} word @returns {string} */
function withWord({ letters, chars, words }, index, word) {
  const [start, stop] = chars[index];
  const before = words[index - 1] ?? "";
  const end = word + letters.slice(stop).join("");
  if (before !== "a" && before !== "an") return letters.slice(0, start).join("") + end;
  const article = /^[aeiou]/.test(word) ? "an" : "a";
  const [from, to] = chars[index - 1];
  return letters.slice(0, from).join("") + article + letters.slice(to, start).join("") + end;
}
