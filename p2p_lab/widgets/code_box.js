// Lines of code with a button that copies them. The text is set as text, never as HTML.
const STYLE = `
  position: relative; width: 100%; box-sizing: border-box; margin-top: 8px;
  border: 1px solid var(--jp-border-color2, #d5d8dc); border-radius: 8px;
  background: var(--jp-layout-color2, rgba(128, 128, 128, 0.08));`;

function render({ model, el }) {
  const box = document.createElement("div");
  box.style.cssText = STYLE;
  const pre = document.createElement("pre");
  pre.className = "p2p-code";
  pre.tabIndex = 0;
  pre.style.cssText =
    "margin: 0; padding: 12px 14px; overflow-x: auto; font-size: 12px; line-height: 1.5;" +
    "font-family: var(--jp-code-font-family, monospace); user-select: text;";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "jupyter-button widget-button";
  button.style.cssText = "position: absolute; top: 6px; right: 6px; width: auto; padding: 0 10px;";
  button.textContent = "Copy";
  button.setAttribute("aria-live", "polite");

  const copy = async () => {
    try {
      await navigator.clipboard.writeText(model.get("value"));
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    } catch { // the browser gave no permission: the lines are selected, to be copied by keys
      button.textContent = "Press Ctrl+C";
      window.getSelection().selectAllChildren(pre);
    }
  };
  const show = () => { pre.textContent = model.get("value"); };
  const asked = () => { show(); copy(); };

  button.addEventListener("click", copy);
  model.on("change:value", show);
  model.on("change:copies", asked); // counts: the same lines can be asked for again
  show();
  box.append(pre, button);
  el.append(box);
  return () => { model.off("change:value", show); model.off("change:copies", asked); };
}

export default { render };
