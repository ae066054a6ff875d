// The paper in a minute: six stops, each with one thing to try.

import { byId, el, fill } from "./dom.js";

/** @typedef {import("../state.js").State} State */
/** @typedef {import("../protocol.js").Recipe} Recipe */
/** @typedef {{title: string, text: string, attempt: string, at: string, recipe: Partial<Recipe>,
 *   lit?: string}} Stop */

const CAT = "a cat next to a house in a snowy field";
const DOG = "a dog next to a house in a snowy field";
const PLAIN = { scales: [], blend: null, method: "auto", cross: 0.8, self_attention: 0.4 };

/** @type {Stop[]} */
const STOPS = [
  {
    title: "1 · Words have places", at: "figure-source", lit: "cat",
    text: "While the model draws, every pixel looks at the words. How much it looks at one word is a map, and the map has the shape of the thing.",
    attempt: "Point at other words under the source. Then tap a pixel.",
    recipe: { ...PLAIN, source: CAT, target: DOG, seed: 1 },
  },
  {
    title: "2 · A new word, a new picture", at: "figure-reprompt",
    text: "Draw the same noise again with “dog” in place of “cat”, and everything may move: the house, the field, the light. That is why pictures are hard to edit by text.",
    attempt: "Compare the house in the source and in the re-prompt.",
    recipe: { ...PLAIN, source: CAT, target: DOG, seed: 1 },
  },
  {
    title: "3 · Keep the maps", at: "faders",
    text: "Prompt-to-Prompt draws the new words into the old maps. τ cross says until which step the words keep the source's places.",
    attempt: "Pull τ cross to 0 and back, and watch the edit.",
    recipe: { ...PLAIN, source: CAT, target: DOG, seed: 1 },
  },
  {
    title: "4 · Add words", at: "figure-edit",
    text: "Words that were there keep their maps; words that are new bring their own. So a crown is added and the rabbit stays.",
    attempt: "Change “crown” with the small menu beside the word.",
    recipe: { ...PLAIN, source: "a rabbit in a field", target: "a rabbit wearing a crown in a field", seed: 3 },
  },
  {
    title: "5 · Turn a word up or down", at: "faders",
    text: "The map of a word can be multiplied. Above 1 there is more of it, at 0 none, below 0 the picture is pushed away from it.",
    attempt: "Move the fader of “snowy” from −2 to 4.",
    recipe: { ...PLAIN, source: CAT, target: CAT, seed: 1, scales: [["snowy", 0, 3]] },
  },
  {
    title: "6 · Change only one place", at: "faders",
    text: "The maps also say where the edit may act. Outside the mask the source stays, pixel for pixel nearly.",
    attempt: "Switch the region on and off, and show its mask.",
    recipe: { ...PLAIN, source: CAT, target: DOG, seed: 1, blend: ["cat", "dog"] },
  },
];

/** @param {State} state @returns {() => void} what starts the tour */
export function prepareTour(state) {
  const known = new Set(state.facts.words);
  const seeds = new Map(state.facts.examples.map((/** @type {any} */ one) => [one.source, one.seed]));
  const usable = STOPS.filter((stop) => !known.size
    || `${stop.recipe.source} ${stop.recipe.target}`.split(" ").every((word) => known.has(word)));
  const box = byId("tour");
  const close = () => {
    box.hidden = true;
    spot(null);
  };
  const go = (/** @type {number} */ n) => {
    const stop = usable[n];
    const seed = seeds.get(stop.recipe.source ?? "") ?? stop.recipe.seed;
    state.change({ ...stop.recipe, seed }, "tour");
    state.set({ mask: false, wipe: 0, pixel: null, pinned: pinnedAt(state, stop) });
    spot(stop.at);
    const next = n + 1 < usable.length;
    fill(
      box,
      el("h2", {}, stop.title),
      el("p", {}, stop.text),
      el("p", { class: "try" }, el("b", {}, "Try: "), stop.attempt),
      el(
        "div", { class: "line" },
        el("button", { type: "button", class: "ghost", onclick: close }, "Close"),
        el("span", { class: "dots", "aria-hidden": "true" }, usable.map((_, i) => el("i", { class: i === n ? "on" : "" }))),
        n > 0 ? el("button", { type: "button", class: "ghost", onclick: () => go(n - 1) }, "Back") : null,
        el("button", { type: "button", onclick: () => (next ? go(n + 1) : close()) }, next ? "Next" : "Done"),
      ),
    );
    box.hidden = false;
    /** @type {HTMLElement | null} */ (box.querySelector(".line button:last-child"))?.focus({ preventScroll: true });
  };
  box.addEventListener("keydown", (event) => event.key === "Escape" && close());
  return () => usable.length && go(0);
}

/** @param {State} state @param {Stop} stop */
function pinnedAt(state, stop) {
  if (!stop.lit) return null;
  const part = stop.at === "figure-source" ? "source" : "edit";
  const place = state.promptOf(part).find(stop.lit)[0];
  return place ? { part: /** @type {import("../protocol.js").Part} */ (part), index: place[0] } : null;
}

/** @param {string | null} id of what is talked about */
function spot(id) {
  for (const one of document.querySelectorAll(".spot")) one.classList.remove("spot");
  if (!id) return;
  const node = byId(id);
  node.classList.add("spot");
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  node.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
}
