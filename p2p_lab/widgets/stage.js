// A picture to work on: see a local edit's mask, paint one, or drag an object.
// Everything is drawn here; what the reader did goes to Python as a few numbers.
const SIDE = 384; // pixels of the canvas along the picture's longer side
const KEY_STEP = 1 / 32; // of the picture, one press of an arrow key
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const SAVE_MS = 60; // between two messages while something is dragged

const bytesOf = (view) => view instanceof DataView
  ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array(view ?? 0);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const percent = (part) => `${Math.round(100 * part)} %`;

function make(kind, className, parent, text = "") {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  if (kind === "button") made.type = "button";
  parent.append(made);
  return made;
}

function render({ model, el }) {
  const root = make("div", "p2p-stage-box", el);
  const canvas = make("canvas", "p2p-stage-canvas", root);
  canvas.tabIndex = 0;
  const side = make("div", "p2p-stage-side", root);
  const read = make("div", "p2p-stage-read", side);
  read.setAttribute("aria-live", "polite");
  const tools = make("div", "p2p-stage-tools", side);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let base = null; // the picture as it is
  let erasing = false;
  let held = null; // where the pointer was in the step before
  let cursor = [0.5, 0.5]; // of the brush, when keys move it: (down, right)
  let showCursor = false;
  let saved = 0;

  const get = (name) => model.get(name);
  const tool = () => get("tool");
  const size = () => [get("rows"), get("columns")];

  function load() {
    const image = new Image();
    image.onload = () => {
      const factor = SIDE / Math.max(image.width, image.height);
      canvas.width = Math.round(image.width * factor);
      canvas.height = Math.round(image.height * factor);
      context.imageSmoothingQuality = "high";
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      base = context.getImageData(0, 0, canvas.width, canvas.height);
      draw();
    };
    image.src = get("picture");
  }

  // Which cells count: the painted ones, or those above the threshold
  function inside() {
    const [rows, columns] = size();
    const cells = bytesOf(tool() === "mask" ? get("level") : get("painted"));
    const least = tool() === "mask" ? 255 * get("threshold") : 127;
    return Array.from({ length: rows * columns }, (_, i) => (cells[i] ?? 0) > least);
  }

  function shade(on) { // what lies outside is dark, with a line between
    const [rows, columns] = size();
    const { width, height } = base;
    const out = new ImageData(new Uint8ClampedArray(base.data), width, height);
    const cellAt = (x, y) => on[Math.floor((y * rows) / height) * columns
      + Math.floor((x * columns) / width)];
    for (let y = 0, p = 0; y < height; y++) {
      for (let x = 0; x < width; x++, p += 4) {
        const here = cellAt(x, y);
        const edge = (x + 2 < width && cellAt(x + 2, y) !== here)
          || (y + 2 < height && cellAt(x, y + 2) !== here);
        for (let c = 0; c < 3; c++) out.data[p + c] = edge ? 255 : base.data[p + c] * (here ? 1 : 0.3);
      }
    }
    context.putImageData(out, 0, 0);
  }

  function regionOf() { // the object: its cells, and the middle of them as parts of the picture
    const [rows, columns] = size();
    const cells = bytesOf(get("region"));
    let [count, down, right] = [0, 0, 0];
    for (let i = 0; i < rows * columns; i++) {
      if (!(cells[i] > 127)) continue;
      count += 1;
      down += (Math.floor(i / columns) + 0.5) / rows;
      right += ((i % columns) + 0.5) / columns;
    }
    return { cells, count, middle: count ? [down / count, right / count] : [0.5, 0.5] };
  }

  function drawMoved() {
    const [rows, columns] = size();
    const { cells, count, middle } = regionOf();
    context.putImageData(base, 0, 0);
    if (!count) return;
    const [down, right, scale] = [get("down"), get("right"), get("scale")];
    const [wide, high] = [canvas.width / columns, canvas.height / rows];
    const picture = document.createElement("canvas");
    [picture.width, picture.height] = [canvas.width, canvas.height];
    picture.getContext("2d").putImageData(base, 0, 0);
    context.fillStyle = "rgba(0, 0, 0, 0.45)";
    const each = (use) => {
      for (let i = 0; i < rows * columns; i++) {
        if (cells[i] > 127) use((i % columns) * wide, Math.floor(i / columns) * high);
      }
    };
    if (down || right || scale !== 1) each((x, y) => context.fillRect(x, y, wide, high));
    context.save();
    context.translate((middle[1] + right) * canvas.width, (middle[0] + down) * canvas.height);
    context.scale(scale, scale);
    context.translate(-middle[1] * canvas.width, -middle[0] * canvas.height);
    each((x, y) => context.drawImage(picture, x, y, wide, high, x, y, wide, high));
    context.lineWidth = 2 / scale;
    context.strokeStyle = "#ffffff";
    context.beginPath();
    each((x, y) => { // a line along each side that has no neighbour
      const [i, j] = [Math.round(y / high), Math.round(x / wide)];
      const has = (a, b) => a >= 0 && b >= 0 && a < rows && b < columns
        && cells[a * columns + b] > 127;
      if (!has(i - 1, j)) { context.moveTo(x, y); context.lineTo(x + wide, y); }
      if (!has(i + 1, j)) { context.moveTo(x, y + high); context.lineTo(x + wide, y + high); }
      if (!has(i, j - 1)) { context.moveTo(x, y); context.lineTo(x, y + high); }
      if (!has(i, j + 1)) { context.moveTo(x + wide, y); context.lineTo(x + wide, y + high); }
    });
    context.stroke();
    context.restore();
  }

  function say() {
    if (tool() === "move") {
      const { count } = regionOf();
      const [down, right, scale] = [get("down"), get("right"), get("scale")];
      return count
        ? `Drag it, or use the arrow keys; + and − resize. Down ${percent(down)}, right `
          + `${percent(right)}, size × ${scale.toFixed(2)}.`
        : "Choose the word of the thing to move.";
    }
    const on = inside();
    const area = on.filter(Boolean).length / Math.max(on.length, 1);
    if (tool() === "mask") return `The edit may change ${percent(area)} of the picture: the bright part.`;
    return `Paint where the edit may act: drag, or arrow keys and Space. ${percent(area)} painted.`;
  }

  function draw() {
    if (!base) return;
    if (tool() === "move") drawMoved();
    else shade(inside());
    if (showCursor && tool() === "paint") {
      context.strokeStyle = "#ffffff";
      context.lineWidth = 2;
      context.beginPath();
      context.arc(cursor[1] * canvas.width, cursor[0] * canvas.height,
        (get("brush") * canvas.width) / get("columns"), 0, 7);
      context.stroke();
    }
    read.textContent = say();
    canvas.setAttribute("role", tool() === "mask" ? "img" : "application");
    canvas.setAttribute("aria-label", `${get("alt")} ${say()}`);
    canvas.style.cursor = { mask: "default", paint: "crosshair", move: "move" }[tool()];
    tools.style.display = tool() === "mask" ? "none" : "flex";
    erase.style.display = tool() === "paint" ? "" : "none";
  }

  function save(now) { // the last one is always sent
    const time = performance.now();
    if (!now && time - saved < SAVE_MS) return;
    saved = time;
    model.save_changes();
  }

  function paint(at, off) {
    const [rows, columns] = size();
    const cells = new Uint8Array(rows * columns);
    cells.set(bytesOf(get("painted")).subarray(0, rows * columns));
    const [y, x] = [at[0] * rows, at[1] * columns];
    for (let i = 0; i < cells.length; i++) {
      const [dy, dx] = [Math.floor(i / columns) + 0.5 - y, (i % columns) + 0.5 - x];
      if (Math.hypot(dy, dx) <= get("brush")) cells[i] = off ? 0 : 255;
    }
    model.set("painted", new DataView(cells.buffer));
    draw();
  }

  function shift(down, right) {
    model.set("down", clamp(Math.round(1000 * (get("down") + down)) / 1000, -1, 1));
    model.set("right", clamp(Math.round(1000 * (get("right") + right)) / 1000, -1, 1));
    draw();
  }

  function resize(factor) {
    model.set("scale", clamp(Math.round(100 * get("scale") * factor) / 100, 0.25, 4));
    draw();
    save(true);
  }

  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (tool() === "mask") return;
    canvas.setPointerCapture(event.pointerId);
    held = where(event);
    if (tool() === "paint") paint(held, erasing || event.shiftKey);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    const at = where(event);
    if (tool() === "paint") paint(at, erasing || event.shiftKey);
    else shift(at[0] - held[0], at[1] - held[1]);
    held = at;
    if (tool() === "move") save(false); // pictures follow the hand
  });
  const release = () => {
    if (!held) return;
    held = null;
    save(true);
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("wheel", (event) => {
    if (tool() !== "move" || document.activeElement !== canvas) return;
    event.preventDefault();
    resize(event.deltaY < 0 ? 1.05 : 1 / 1.05);
  }, { passive: false });

  canvas.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    const resizing = { "+": 1.1, "=": 1.1, "-": 1 / 1.1 }[event.key];
    if (tool() === "mask" || !(arrow || resizing || event.key === " ")) return;
    event.preventDefault();
    event.stopPropagation();
    if (tool() === "move") {
      if (resizing) resize(resizing);
      if (arrow) { shift(arrow[0] * KEY_STEP, arrow[1] * KEY_STEP); save(true); }
      return;
    }
    const [rows, columns] = size();
    if (arrow) cursor = [clamp(cursor[0] + arrow[0] / rows, 0, 1), clamp(cursor[1] + arrow[1] / columns, 0, 1)];
    showCursor = true;
    if (event.key === " ") { paint(cursor, erasing); save(true); }
    draw();
  });
  canvas.addEventListener("blur", () => { showCursor = false; draw(); });

  const button = (text, act) => {
    const made = make("button", "jupyter-button widget-button", tools, text);
    made.addEventListener("click", act);
    return made;
  };
  const erase = button("Erase", () => {
    erasing = !erasing;
    erase.setAttribute("aria-pressed", String(erasing));
    erase.classList.toggle("mod-active", erasing);
  });
  erase.setAttribute("aria-pressed", "false");
  button("Clear", () => {
    if (tool() === "paint") model.set("painted", new DataView(new ArrayBuffer(0)));
    else for (const [name, value] of [["down", 0], ["right", 0], ["scale", 1]]) model.set(name, value);
    draw();
    save(true);
  });

  const handlers = { "change:picture": load };
  for (const name of ["tool", "level", "threshold", "painted", "region", "down", "right", "scale",
    "rows", "columns"]) handlers[`change:${name}`] = () => queueMicrotask(draw);
  for (const [name, handler] of Object.entries(handlers)) model.on(name, handler);
  load();
  return () => { for (const [name, handler] of Object.entries(handlers)) model.off(name, handler); };
}

export default { render };
