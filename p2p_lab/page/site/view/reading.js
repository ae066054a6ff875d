// What can be read: the words of a tapped pixel, what the judge sees, and numbers of the edit.

import { faderWords } from "../method/recipe.js";
import { changedShare, psnr } from "../method/sampling.js";
import { byId, el, fill, short } from "./dom.js";

/** @typedef {import("../state.js").State} State */
/** @typedef {import("../nets.js").Answers} Answers */

const ALIKE = 15; // per cent of the weather's degree that are no difference worth a mark

/** @param {State} state */
export function showReading(state) {
  state.watch(["pixel", "shown", "step", "target", "source"], () => fill(byId("pixel"), pixelWords(state)));
  state.watch(["shown", "drawn", "recipe"], () => fill(byId("judge"), judged(state)));
  state.watch(["shown", "drawn", "recipe", "message"], () => fill(byId("numbers"), numbers(state)));
}

/** @param {State} state @returns {HTMLElement[]} */
function pixelWords(state) {
  const { pixel } = state.fields;
  if (!pixel) {
    return [
      el("h2", {}, "What a pixel looks at"),
      el("p", { class: "hint" }, "Tap a place in the source or the edit: here come the words that it looks at. With the keyboard: Tab to a picture, then the arrow keys."),
    ];
  }
  const prompt = state.promptOf(pixel.part);
  const columns = state.facts.map_grid[1];
  const rows = faderWords(prompt).map(([index, word]) => {
    const map = state.mapOf(pixel.part, prompt.tokensAt(index));
    return { index, word, share: map ? map[pixel.y * columns + pixel.x] : 0 };
  });
  const most = Math.max(0.02, ...rows.map((row) => row.share));
  const bars = rows.map(({ index, word, share }) => el(
    "div", {
      class: "bar",
      onpointerenter: () => state.set({ hovered: { part: pixel.part, index } }),
      onpointerleave: () => state.set({ hovered: null }),
    },
    el("span", {}, word),
    el("i", { style: `--share:${(Math.max(share, 0) / most) * 100}%` }),
    el("output", {}, `${short(share * 100, 1)} %`),
  ));
  return [el("h2", {}, `What this pixel of the ${pixel.part} looks at`), el("div", { class: "bars" }, bars)];
}

/** @param {State} state @returns {(HTMLElement | null)[]} */
function judged(state) {
  const title = el("h2", {}, "What the judge sees");
  const labels = state.facts.judge;
  if (!labels) return [title, el("p", { class: "hint" }, "No judge knows this model's pictures.")];
  const [before, after] = [state.fields.shown.source?.judged, state.fields.shown.edit?.judged].map((one) => one ? verdict(one, labels) : null);
  if (!before) return [title, el("p", { class: "hint" }, "A second network that reads pictures and knows no prompt.")];
  return [title, sees("Source", before, after), after ? sees("Edit", after, before) : null];
}

/** @typedef {{text: string, degree: number}} Seen degree of the weather in %, 0 for all else */

/** @param {string} name @param {Seen[]} items @param {Seen[] | null} other @returns {HTMLElement} */
function sees(name, items, other) {
  const words = items.map(({ text, degree }) => {
    const same = !other || other.some((one) => one.text === text && Math.abs(one.degree - degree) <= ALIKE);
    return el("span", { class: same ? "seen" : "seen differs" }, degree ? `${text} ${degree} %` : text);
  });
  return el("p", { class: "verdict" }, el("b", {}, name), words);
}

/** @param {Answers} answers @param {any} labels @returns {Seen[]} what is there, the surest first */
function verdict(answers, labels) {
  const best = (/** @type {ArrayLike<number>} */ values) => Array.from(values).reduce((top, v, i, all) => (v > all[top] ? i : top), 0);
  const count = labels.attributes.length;
  const objects = labels.objects
    .map((/** @type {string} */ name, /** @type {number} */ i) => {
      const look = labels.attributes[best(answers.attributes.slice(i * count, (i + 1) * count))];
      return { sure: answers.present[i], text: look === "natural" ? name : `${look} ${name}` };
    })
    .filter((/** @type {any} */ one) => one.sure >= labels.threshold)
    .sort((/** @type {any} */ a, /** @type {any} */ b) => b.sure - a.sure)
    .map((/** @type {any} */ one) => ({ text: one.text, degree: 0 }));
  const weather = labels.weathers[best(answers.weather)];
  const degree = weather === "clear" ? 0 : Math.round(answers.degree[0] * 100);
  const others = [labels.places[best(answers.place)], labels.times[best(answers.time)]];
  return [
    ...objects, ...others.map((text) => ({ text, degree: 0 })), { text: weather, degree },
    { text: labels.styles[best(answers.style)], degree: 0 },
  ];
}

/** @param {State} state @returns {(HTMLElement | null)[]} */
function numbers(state) {
  const { shown, message } = state.fields;
  const rows = [];
  if (shown.source && shown.edit) {
    const [a, b] = [shown.source.picture, shown.edit.picture];
    rows.push(["kept of the source", decibels(a, b)], ["pixels changed", percent(a, b)]);
    if (shown.reprompt && state.fresh("reprompt")) {
      rows.push(["re-prompt keeps", decibels(a, shown.reprompt.picture)]);
    }
    rows.push(["drawn in", `${short(shown.edit.seconds, 2)} s`]);
  }
  return [
    el("h2", {}, "Numbers"),
    message ? el("p", { class: "wrong", role: "alert" }, message) : null,
    rows.length ? el("dl", {}, rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])) : null,
  ];
}

/** @param {Float32Array} a @param {Float32Array} b @returns {string} */
function decibels(a, b) {
  const value = psnr(a, b);
  return value === Infinity ? "all of it" : `${value.toFixed(1)} dB`;
}

/** @param {Float32Array} a @param {Float32Array} b @returns {string} */
function percent(a, b) {
  return `${Math.round(changedShare(a, b) * 100)} %`;
}
