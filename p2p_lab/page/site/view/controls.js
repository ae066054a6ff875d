// The edit's controls: two windows, a fader a word, the local edit, and what is seldom changed.

import { defaultKind } from "../method/plan.js";
import { faderWords, listed, written } from "../method/recipe.js";
import { byId, el, fill, short } from "./dom.js";

/** @typedef {import("../state.js").State} State */

/** @param {State} state */
export function showControls(state) {
  const words = el("div", { class: "word-faders", role: "group", "aria-label": "Words up and down" });
  const reset = el("button", { type: "button", class: "ghost", onclick: () => state.change({ scales: [] }) }, "All to 1");
  fill(
    byId("faders"),
    el("h2", {}, "Keep of the source"),
    windowFader(state, "cross", "Words’ places", "τ cross: until this part of the steps the words keep the source's maps"),
    windowFader(state, "self_attention", "Shapes", "τ self: until this part of the steps the picture keeps the source's self-attention"),
    el("div", { class: "head" }, el("h2", {}, "Words up and down"), reset),
    words,
    local(state),
    more(state),
  );
  state.watch(["target"], () => fill(words, faderWords(state.fields.target).map(([index, word, place]) => wordFader(state, index, word, place))));
  state.watch(["recipe"], () => { reset.disabled = !state.fields.recipe.scales.length; });
}

/** @param {State} state @param {"cross" | "self_attention"} name @param {string} title @param {string} tip */
function windowFader(state, name, title, tip) {
  const value = el("output");
  const input = el("input", {
    type: "range", min: 0, max: 1, step: 0.05, "aria-label": tip, name,
    oninput: () => state.change({ [name]: Number(input.value) }, name === "cross" ? "cross" : "self"),
  });
  const ticks = el("div", { class: "ticks", "aria-hidden": "true" });
  state.watch(["recipe"], () => {
    const now = state.fields.recipe[name];
    const steps = state.fields.recipe.steps ?? state.facts.steps;
    input.value = String(now);
    input.style.setProperty("--part", `${now * 100}%`);
    const count = Math.floor(now * steps + 0.5 + 1e-9);
    value.textContent = `${short(now)} · ${count} of ${steps} steps`;
    fill(ticks, Array.from({ length: steps }, (_, i) => el("i", { class: i < count ? "on" : "" })));
  });
  const symbol = name === "cross" ? "cross" : "self";
  return el("div", { class: "fader window", title: tip }, el("label", {}, el("span", {}, title, el("em", {}, `τ ${symbol}`)), value, input), ticks);
}

/** @param {State} state @param {number} index @param {string} word @param {number} place */
function wordFader(state, index, word, place) {
  const value = el("output");
  const input = el("input", {
    type: "range", min: -2, max: 4, step: 0.25, "aria-label": `Weight of ${word}`, "data-word": word,
    oninput: () => setScale(state, word, place, Number(input.value)),
    onpointerenter: () => state.set({ hovered: { part: "edit", index } }),
    onpointerleave: () => state.set({ hovered: null }),
    ondblclick: () => setScale(state, word, place, 1),
  });
  const row = el("label", { class: "fader" }, el("span", {}, word), input, value);
  const follow = () => {
    const scale = state.fields.recipe.scales.find(([w, n]) => w === word && n === place)?.[2] ?? 1;
    input.value = String(scale);
    input.style.setProperty("--part", `${((scale + 2) / 6) * 100}%`);
    value.textContent = short(scale);
    row.classList.toggle("moved", scale !== 1);
  };
  state.watch(["recipe"], () => row.isConnected || !row.parentNode ? follow() : undefined);
  return row;
}

/** @param {State} state @param {string} word @param {number} place @param {number} scale */
function setScale(state, word, place, scale) {
  const others = state.fields.recipe.scales.filter(([w, n]) => w !== word || n !== place);
  const order = faderWords(state.fields.target).map(([, w, n]) => `${w}:${n}`);
  /** @type {[string, number, number][]} */
  const scales = scale === 1 ? others : [...others, [word, place, scale]];
  scales.sort((a, b) => order.indexOf(`${a[0]}:${a[1]}`) - order.indexOf(`${b[0]}:${b[1]}`));
  state.change({ scales }, `scale:${word}:${place}`);
}

/** The local edit: whether, which words, how tight, and its mask. @param {State} state */
function local(state) {
  const on = el("input", {
    type: "checkbox", name: "local",
    onchange: () => {
      state.change({ blend: on.checked ? usualWords(state) : null, mask: [] }, "blend");
      state.set({ mask: on.checked && state.fields.mask });
    },
  });
  const before = select(state, "source", "Word of the source that marks the region", 0);
  const after = select(state, "target", "Word of the edit that marks the region", 1);
  const mask = el("input", { type: "checkbox", name: "mask", onchange: () => state.set({ mask: mask.checked }) });
  const value = el("output");
  const threshold = el("input", {
    type: "range", min: 0.05, max: 0.95, step: 0.05, "aria-label": "Threshold: how tight the region is", name: "threshold",
    oninput: () => state.change({ threshold: Number(threshold.value) }, "threshold"),
  });
  const body = el(
    "div", { class: "local-body" },
    el("div", { class: "pair" }, before, el("span", {}, "and"), after),
    el("label", { class: "fader" }, el("span", {}, "tight"), threshold, value),
    el("label", { class: "check" }, mask, "show the mask"),
  );
  state.watch(["recipe", "mask"], () => {
    const { recipe } = state.fields;
    on.checked = recipe.blend !== null || recipe.mask.length > 0;
    body.hidden = recipe.blend === null;
    mask.checked = state.fields.mask;
    threshold.value = String(recipe.threshold);
    threshold.style.setProperty("--part", `${((recipe.threshold - 0.05) / 0.9) * 100}%`);
    value.textContent = short(recipe.threshold);
  });
  return el("div", { class: "local" }, el("label", { class: "check" }, on, el("b", {}, "Change only the region of words")), body);
}

/** @param {State} state @param {"source" | "target"} name @param {string} label @param {0 | 1} which */
function select(state, name, label, which) {
  const box = el("select", {
    "aria-label": label,
    onchange: () => {
      const { blend } = state.fields.recipe;
      if (!blend) return;
      /** @type {[string, string]} */
      const words = [blend[0], blend[1] || blend[0]];
      words[which] = written([box.value]);
      state.change({ blend: words }, "blend");
    },
  });
  state.watch(["recipe", name], () => {
    const { blend } = state.fields.recipe;
    const now = blend ? listed(blend[which] || blend[0]).join(", ") : "";
    const words = [...new Set(faderWords(state.fields[name]).map(([, word]) => word))];
    if (now && !words.includes(now)) words.unshift(now);
    fill(box, words.map((word) => el("option", { value: word, selected: word === now }, word)));
  });
  return box;
}

/** The words that differ, which a local edit is most likely about. @param {State} state
 * @returns {[string, string]} */
function usualWords(state) {
  const [before, after] = [state.fields.source, state.fields.target].map((prompt) => faderWords(prompt).map(([, word]) => word));
  const small = new Set(["a", "an", "the", "in", "on", "at", "of", "to", "next", "and"]);
  const gone = before.find((word) => !after.includes(word) && !small.has(word));
  const fresh = after.find((word) => !before.includes(word) && !small.has(word));
  const shared = before.find((word) => after.includes(word) && !small.has(word)) ?? before[0] ?? "";
  const one = gone ?? shared;
  return [written([one]), written([fresh ?? (after.includes(one) ? one : shared)])];
}

/** What is seldom changed: alignment, steps, guidance. @param {State} state */
function more(state) {
  const kinds = { auto: "as the prompts ask", Replace: "Replace: swap words", Refine: "Refine: add words" };
  const method = el("select", {
    name: "method", onchange: () => state.change({ method: method.value }),
  }, Object.entries(kinds).map(([value, name]) => el("option", { value }, name)));
  const steps = el("select", {
    name: "steps", onchange: () => state.change({ steps: Number(steps.value) }),
  }, Object.keys(state.facts.schedules).map((value) => el("option", { value }, value)));
  const guidance = el("input", {
    type: "number", min: 1, max: 15, step: 0.5, name: "guidance",
    onchange: () => Number(guidance.value) >= 1 && state.change({ guidance_scale: Number(guidance.value) }),
  });
  const chosen = el("span", { class: "note" });
  state.watch(["recipe", "source", "target"], () => {
    const { recipe, source, target } = state.fields;
    method.value = recipe.method;
    steps.value = String(recipe.steps ?? state.facts.steps);
    if (document.activeElement !== guidance) guidance.value = String(recipe.guidance_scale ?? state.facts.guidance_scale);
    chosen.textContent = recipe.method === "auto" ? kindOf(source, target) : "";
  });
  return el(
    "details", { class: "more" }, el("summary", {}, "Alignment, steps, guidance"),
    el("label", {}, el("span", {}, "Alignment"), method, chosen),
    el("label", {}, el("span", {}, "Steps"), steps),
    el("label", {}, el("span", {}, "Guidance"), guidance),
    card(state),
  );
}

/** An offer to draw with the graphics card, where the browser has one. @param {State} state */
function card(state) {
  const button = el("button", {
    type: "button", hidden: true, onclick: () => { location.search = "?provider=webgpu"; },
  }, "Use the graphics card");
  /** @type {any} */ (navigator).gpu?.requestAdapter().then((/** @type {unknown} */ adapter) => {
    button.hidden = !adapter || state.fields.provider === "webgpu";
  }, () => undefined);
  return button;
}

/** @param {import("../method/prompt.js").Prompt} source @param {import("../method/prompt.js").Prompt} target */
function kindOf(source, target) {
  try {
    return `here: ${defaultKind(source, target)}`;
  } catch {
    return "";
  }
}
