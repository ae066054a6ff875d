// Plain keys that are pressed in a panel are the panel's. Some notebooks look at keys before the
// focused control does, and take the arrows of a fader to choose another cell; they leave alone
// what is marked. Keys with Ctrl, Alt or Cmd, and Shift+Enter, stay the notebook's.
const MARK = "data-lm-suppress-shortcuts";

function render({ model, el }) {
  model.set("shown", model.get("shown") + 1); // somebody may look: pictures can be made ready
  model.save_changes();
  const mark = (event) => {
    const { target, key } = event;
    if (!el.closest(".p2p")?.contains(target)) return;
    const runs = event.shiftKey && key === "Enter";
    const own = !(event.ctrlKey || event.altKey || event.metaKey || runs);
    if (own) target.setAttribute(MARK, "true"); // on the control itself: shortcuts look there first
    else target.removeAttribute(MARK);
  };
  window.addEventListener("keydown", mark, true); // the window hears of keys before the document
  return () => window.removeEventListener("keydown", mark, true);
}

export default { render };
