// The two prompts, the seed, examples, and what to do about words that the model does not know.

import { closeMatches, unknownWords } from "../method/near.js";
import { byId, el, fill } from "./dom.js";

/** @typedef {import("../state.js").State} State */

const WAIT = 350; // milliseconds after the last letter before a prompt is taken

/** @param {State} state */
export function showPrompts(state) {
  const known = new Set(/** @type {string[]} */ (state.facts.words));
  const source = field(state, "source", "Source");
  const target = field(state, "target", "Edit");
  const seed = el("input", {
    type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, "aria-label": "Seed of the noise",
    onchange: () => setSeed(state, Number(seed.value)),
  });
  const dice = el("button", {
    type: "button", class: "ghost", title: "Another noise, another picture",
    onclick: () => setSeed(state, Math.floor(Math.random() * 10000)),
  }, "Another");
  const strange = el("p", { class: "strange", role: "status" });
  const words = el("datalist", { id: "known-words" }, state.facts.words.map((/** @type {string} */ word) => el("option", { value: word })));

  fill(
    byId("prompts"),
    el("div", { class: "line" }, source.label, el("label", { class: "seed" }, el("span", {}, "Seed"), seed), dice),
    el("div", { class: "line" }, target.label),
    el("div", { class: "line foot" }, strange, examples(state), words),
  );

  state.watch(["recipe"], () => {
    source.follow(state.fields.recipe.source);
    target.follow(state.fields.recipe.target);
    if (document.activeElement !== seed) seed.value = String(state.fields.recipe.seed ?? 0);
    fill(strange, strangeWords(state, known));
    strange.hidden = !strange.childNodes.length;
  });
}

/** A prompt's field. @param {State} state @param {"source" | "target"} name @param {string} title */
function field(state, name, title) {
  let timer = 0;
  const take = () => {
    window.clearTimeout(timer);
    setText(state, name, input.value);
  };
  const input = el("input", {
    type: "text", spellcheck: "false", autocomplete: "off", maxlength: 400, class: "prompt",
    oninput: () => {
      window.clearTimeout(timer);
      timer = window.setTimeout(take, WAIT);
    },
    onchange: take,
    onkeydown: (/** @type {KeyboardEvent} */ event) => event.key === "Enter" && take(),
  });
  const label = el("label", { class: `field ${name}` }, el("span", {}, title), input);
  return {
    label,
    /** @param {string} text */
    follow(text) {
      if (document.activeElement !== input) input.value = text;
    },
  };
}

/** @param {State} state @param {"source" | "target"} name @param {string} text */
function setText(state, name, text) {
  try {
    state.change({ [name]: text });
  } catch (error) {
    state.set({ message: error instanceof Error ? error.message : String(error) });
  }
}

/** @param {State} state @param {number} seed */
function setSeed(state, seed) {
  if (Number.isSafeInteger(seed) && seed >= 0) state.change({ seed });
  else state.set({ message: "A seed is a whole number from 0 on." });
}

/** @param {State} state */
function examples(state) {
  const buttons = state.facts.examples.map((/** @type {any} */ one) => el("button", {
    type: "button", class: "chip", title: `${one.source} → ${one.target}`,
    onclick: () => state.change({ ...one, scales: [], blend: null, method: "auto", cross: 0.8, self_attention: 0.4 }, "example"),
  }, named(one.source, one.target)));
  return el("div", { class: "examples", role: "group", "aria-label": "Examples" }, buttons);
}

/** What an example does, in two or three words. @param {string} source @param {string} target */
function named(source, target) {
  const [before, after] = [source.split(" "), target.split(" ")];
  const gone = before.filter((word) => !after.includes(word)).join(" ");
  const fresh = after.filter((word) => !before.includes(word)).join(" ");
  return gone ? `${gone} → ${fresh}` : `+ ${fresh}`;
}

/** A line for each unknown word, with buttons for the nearest known ones. @param {State} state
 * @param {Set<string>} known @returns {HTMLElement[]} */
function strangeWords(state, known) {
  /** @type {Map<string, HTMLElement>} */
  const lines = new Map();
  for (const name of /** @type {const} */ (["source", "target"])) {
    const prompt = state.fields[name];
    for (const i of unknownWords(prompt, known)) {
      const word = prompt.words[i];
      if (lines.has(word)) continue;
      const near = closeMatches(word.toLowerCase(), [...known].sort());
      lines.set(word, el("span", {}, `The model never learned “${word}”. `, near.length ? "Near: " : "", near.map((one) => el("button", {
        type: "button", class: "chip", onclick: () => replaceWord(state, word, one),
      }, one))));
    }
  }
  return [...lines.values()].slice(0, 2);
}

/** Write a known word in the place of an unknown one. @param {State} state @param {string} old
 * @param {string} fresh */
function replaceWord(state, old, fresh) {
  const written = (/** @type {import("../method/prompt.js").Prompt} */ prompt) => prompt.letters
    .map((letter, i) => {
      const at = prompt.words.findIndex((word, w) => word === old && prompt.chars[w][0] <= i && i < prompt.chars[w][1]);
      if (at < 0) return letter;
      return i === prompt.chars[at][0] ? fresh : "";
    }).join("");
  state.change({ source: written(state.fields.source), target: written(state.fields.target) });
}
