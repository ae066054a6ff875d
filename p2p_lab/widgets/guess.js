// A question with its answers as buttons. Until one is chosen, the next cell's output stays hidden:
// guess.css does that by the mark "waiting".
function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "p2p-guess";
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Your guess");
  const buttons = model.get("options").map((text, i) => {
    const button = document.createElement("button");
    button.type = "button";
    const letter = document.createElement("b");
    letter.textContent = String.fromCharCode(97 + i);
    const said = document.createElement("span");
    said.textContent = text;
    button.append(letter, said);
    button.addEventListener("click", () => {
      if (model.get("chosen") >= 0) return; // a guess counts once
      model.set("chosen", i);
      model.save_changes();
    });
    return button;
  });
  const read = document.createElement("div");
  read.className = "p2p-guess-read";
  read.setAttribute("aria-live", "polite");
  root.append(...buttons, read);
  el.append(root);

  function draw() {
    const chosen = model.get("chosen");
    root.toggleAttribute("waiting", chosen < 0);
    buttons.forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === chosen));
      button.setAttribute("aria-disabled", String(chosen >= 0));
    });
    read.textContent = chosen < 0
      ? "Choose one: the next result stays hidden until then."
      : `You guessed ${String.fromCharCode(97 + chosen)}. Compare it with the next result.`;
  }
  model.on("change:chosen", draw);
  draw();
  return () => model.off("change:chosen", draw);
}

export default { render };
