// The whole panel takes a picture file that is dropped on it; its name and bytes go to Python.
const STYLE = `
  padding: 7px 12px; border: 1px dashed var(--jp-border-color1, #b0b5bb); border-radius: 6px;
  font-size: 12px; line-height: 1.3; text-align: center; color: var(--jp-ui-font-color2, #667085);`;
const OVER = "p2p-over";

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "p2p-drop";
  box.style.cssText = STYLE;
  box.textContent = "or drop one anywhere here";
  el.append(box);
  const mine = (event) => {
    const panel = el.closest(".p2p");
    const files = event.dataTransfer?.types.includes("Files");
    return files && panel?.contains(event.target) ? panel : null;
  };
  const over = (event) => {
    const panel = mine(event);
    if (!panel) return;
    event.preventDefault();
    event.stopPropagation();
    panel.classList.add(OVER);
  };
  const out = () => el.closest(".p2p")?.classList.remove(OVER);
  const drop = async (event) => {
    if (!mine(event)) return;
    event.preventDefault(); // else the browser would open the file itself
    event.stopPropagation();
    out();
    const file = event.dataTransfer.files[0];
    if (!file) return;
    model.set("name", file.name);
    model.set("content", new DataView(await file.arrayBuffer()));
    model.set("count", model.get("count") + 1); // the same file can come twice
    model.save_changes();
  };
  const listeners = { dragenter: over, dragover: over, dragleave: out, drop };
  for (const [name, listener] of Object.entries(listeners)) {
    window.addEventListener(name, listener, true); // before the notebook takes it for a new cell
  }
  return () => {
    for (const [name, listener] of Object.entries(listeners)) {
      window.removeEventListener(name, listener, true);
    }
  };
}

export default { render };
