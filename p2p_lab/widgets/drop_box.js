// A place to drop a picture file on; its bytes go to Python.
const STYLE = `
  padding: 7px 12px; border: 1px dashed var(--jp-border-color1, #b0b5bb); border-radius: 6px;
  font-size: 12px; line-height: 1.3; text-align: center; color: var(--jp-ui-font-color2, #667085);`;
const OVER = "var(--jp-brand-color1, #1a73e8)";

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "p2p-drop";
  box.style.cssText = STYLE;
  box.textContent = "or drop one here";
  el.append(box);

  const over = (event) => {
    event.preventDefault();
    event.stopPropagation();
    box.style.borderColor = OVER;
  };
  const out = () => { box.style.borderColor = ""; };
  const drop = async (event) => {
    over(event); // else the browser would open the file itself
    out();
    const file = event.dataTransfer?.files[0];
    if (!file) return;
    model.set("content", new DataView(await file.arrayBuffer()));
    model.save_changes();
  };
  const listeners = { dragenter: over, dragover: over, dragleave: out, drop };
  for (const [name, listener] of Object.entries(listeners)) box.addEventListener(name, listener);
}

export default { render };
