// The play bar: how the three pictures came out of noise, step by step, with their maps.

import { byId, el, fill } from "./dom.js";

/** @typedef {import("../state.js").State} State */
/** @typedef {import("../client.js").Client} Client */

const PACE = 600; // milliseconds a step

/** @param {State} state @param {Client} client */
export function showPlaying(state, client) {
  let timer = 0;
  const button = el("button", { type: "button", class: "play", "aria-label": "Play the steps", onclick: () => (timer ? stop() : start()) }, "▶");
  const input = el("input", {
    type: "range", min: 1, step: 1, "aria-label": "Step from noise to picture", name: "step",
    oninput: () => { stop(); look(Number(input.value) - 1); },
  });
  const label = el("output");
  fill(byId("play"), button, el("label", {}, el("span", {}, "noise"), input, el("span", {}, "picture")), label);

  const total = () => state.fields.shown.edit?.steps ?? state.fields.recipe.steps ?? state.facts.steps;
  const look = (/** @type {number} */ step) => {
    client.wantPreviews();
    state.set({ step: step >= total() - 1 ? null : step });
  };
  const stop = () => {
    window.clearInterval(timer);
    timer = 0;
    button.textContent = "▶";
    button.setAttribute("aria-label", "Play the steps");
  };
  const start = () => {
    let at = 0;
    button.textContent = "⏸";
    button.setAttribute("aria-label", "Stop");
    look(0);
    timer = window.setInterval(() => {
      at += 1;
      look(at);
      if (at >= total() - 1) stop();
    }, PACE);
  };
  state.watch(["recipe"], stop);
  state.watch(["step", "shown", "recipe", "ready"], () => {
    const { step, shown } = state.fields;
    input.max = String(total());
    input.value = String(step === null ? total() : step + 1);
    input.style.setProperty("--part", `${((Number(input.value) - 1) / Math.max(total() - 1, 1)) * 100}%`);
    button.disabled = input.disabled = !shown.edit;
    label.textContent = step === null ? `all ${total()} steps` : `after step ${step + 1} of ${total()}`;
  });
}
