// A picture lit by one word's map. All maps are here already: hovering asks nobody.
const SIDE = 384; // pixels of the canvas along the picture's longer side
const VIRIDIS = [ // nine stops, evenly spaced
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [109, 205, 89], [253, 231, 37],
];

function colour(value) {
  const at = Math.min(Math.max(value, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  const part = at - low;
  return VIRIDIS[low].map((c, i) => c + part * (VIRIDIS[low + 1][i] - c));
}

function bytesOf(view) {
  return view instanceof DataView
    ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
    : new Uint8Array(view ?? 0);
}

// For each canvas pixel along one axis: the two cells beside it, and how far it is between them.
function between(size, cells) {
  return Array.from({ length: size }, (_, pixel) => {
    const at = Math.min(Math.max(((pixel + 0.5) * cells) / size - 0.5, 0), cells - 1);
    const low = Math.min(Math.floor(at), Math.max(cells - 2, 0));
    return [low, Math.min(low + 1, cells - 1), at - low];
  });
}

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "p2p-map";
  const stage = document.createElement("div");
  stage.className = "p2p-stage";
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  const outline = document.createElement("img");
  outline.className = "p2p-outline";
  outline.alt = "";
  stage.append(canvas, outline);

  const side = document.createElement("div");
  const words = document.createElement("div");
  words.className = "p2p-words";
  words.setAttribute("role", "group");
  words.setAttribute("aria-label", "Words of the prompt");
  const read = document.createElement("div");
  read.className = "p2p-read";
  read.setAttribute("aria-live", "polite");
  const scale = document.createElement("div");
  scale.className = "p2p-scale";
  const top = document.createElement("span");
  const bar = document.createElement("i");
  const zero = document.createElement("span");
  zero.textContent = "0";
  scale.append(zero, bar, top);
  const bars = document.createElement("div");
  bars.className = "p2p-bars";
  bars.setAttribute("role", "list");
  bars.setAttribute("aria-live", "polite");
  side.append(words, read, scale, bars);
  root.append(stage, side);
  el.append(root);

  const context = canvas.getContext("2d", { willReadFrequently: true });
  let base = null; // the picture's pixels
  let hovered = -1;
  const positions = () => model.get("labels").length === 0;
  const shown = () => (hovered >= 0 ? hovered : model.get("pinned"));
  const asked = () => (positions() ? -1 : model.get("asked"));

  function loadPicture() {
    const picture = new Image();
    picture.onload = () => {
      const factor = SIDE / Math.max(picture.width, picture.height);
      canvas.width = Math.round(picture.width * factor);
      canvas.height = Math.round(picture.height * factor);
      context.imageSmoothingQuality = "high";
      context.drawImage(picture, 0, 0, canvas.width, canvas.height);
      base = context.getImageData(0, 0, canvas.width, canvas.height);
      draw();
    };
    picture.src = model.get("picture");
  }

  function ceiling(index) {
    const peaks = model.get("peaks");
    return model.get("shared") ? Math.max(...peaks) : peaks[index];
  }

  function draw() {
    if (!base) return;
    const index = shown();
    const count = model.get("peaks").length;
    if (index < 0 || index >= count) {
      context.putImageData(base, 0, 0);
    } else {
      const rows = model.get("rows");
      const columns = model.get("columns");
      const cells = bytesOf(model.get("maps")).subarray(
        index * rows * columns, (index + 1) * rows * columns);
      const gain = model.get("peaks")[index] / (ceiling(index) || 1) / 255;
      context.putImageData(blend(cells, rows, columns, gain), 0, 0);
      if (positions()) mark(index, rows, columns);
    }
    if (asked() >= 0) mark(asked(), model.get("rows"), model.get("columns"));
    describe(index, count);
    drawBars();
  }

  function blend(cells, rows, columns, gain) {
    const { width, height } = base;
    const out = new ImageData(width, height);
    const heat = model.get("look") === "heat";
    const across = between(width, columns);
    const down = between(height, rows);
    for (let y = 0, p = 0; y < height; y++) {
      const [y0, y1, fy] = down[y];
      for (let x = 0; x < width; x++, p += 4) {
        const [x0, x1, fx] = across[x];
        const above = cells[y0 * columns + x0] * (1 - fx) + cells[y0 * columns + x1] * fx;
        const below = cells[y1 * columns + x0] * (1 - fx) + cells[y1 * columns + x1] * fx;
        const light = Math.min((above * (1 - fy) + below * fy) * gain, 1);
        const paint = heat ? colour(light) : null;
        for (let c = 0; c < 3; c++) {
          const own = base.data[p + c];
          out.data[p + c] = heat ? 0.3 * own + 0.7 * paint[c] : own * (0.12 + 0.88 * light);
        }
        out.data[p + 3] = 255;
      }
    }
    return out;
  }

  function mark(index, rows, columns) { // the position that looks
    const width = canvas.width / columns;
    const height = canvas.height / rows;
    context.lineWidth = 3;
    context.strokeStyle = "#ffffff";
    context.strokeRect((index % columns) * width, Math.floor(index / columns) * height,
      width, height);
  }

  // The row of M of one place: how it shares its attention among all words, and the padding.
  function drawBars() {
    const cell = asked();
    const labels = model.get("row_labels");
    const cells = model.get("rows") * model.get("columns");
    bars.style.display = cell >= 0 && labels.length ? "grid" : "none";
    if (cell < 0) return bars.replaceChildren();
    const bytes = bytesOf(model.get("row_maps"));
    const shares = labels.map((_, i) => {
      const at = 2 * (i * cells + cell);
      return (bytes[at] + 256 * bytes[at + 1]) / 65535;
    });
    const most = Math.max(...shares, 1e-9);
    bars.replaceChildren(...labels.map((label, i) => {
      const line = document.createElement("div");
      line.setAttribute("role", "listitem");
      line.setAttribute("aria-label", `${label} ${(100 * shares[i]).toFixed(1)} percent`);
      const name = document.createElement("span");
      name.textContent = label;
      const bar = document.createElement("i");
      bar.style.width = `${(100 * shares[i]) / most}%`;
      const track = document.createElement("b");
      track.append(bar);
      const number = document.createElement("span");
      number.textContent = `${(100 * shares[i]).toFixed(1)} %`;
      line.append(name, track, number);
      return line;
    }));
  }

  function ask(cell) {
    model.set("asked", cell);
    model.save_changes();
    draw();
  }

  function describe(index, count) {
    const labels = model.get("labels");
    const any = index >= 0 && index < count;
    outline.src = (any && model.get("outlines")[index]) || "data:,";
    outline.style.display = any && model.get("outlines")[index] ? "block" : "none";
    canvas.setAttribute("aria-label", any
      ? `${model.get("alt")} ${model.get("notes")[index] ?? ""}` : model.get("alt"));
    read.replaceChildren();
    if (any) {
      const name = document.createElement("b");
      name.textContent = labels[index] ?? "";
      const note = document.createElement("div");
      note.textContent = model.get("notes")[index] ?? "";
      read.append(name, note);
      top.textContent = ceiling(index).toFixed(ceiling(index) < 0.1 ? 3 : 2);
    } else {
      read.textContent = positions()
        ? "Point at a place in the picture to see where it looks, or move it by the arrow keys. " +
          "Click or Enter keeps it."
        : "Point at a word, or reach it with Tab, to see where the picture looks for it; click " +
          "keeps it. Click a place in the picture to see which words it looks at.";
    }
    scale.style.visibility = any ? "visible" : "hidden";
    bar.style.background = model.get("look") === "heat"
      ? `linear-gradient(90deg, ${VIRIDIS.map((c) => `rgb(${c})`).join(",")})`
      : "linear-gradient(90deg, #1c1c1c, #f2f2f2)";
    words.querySelectorAll("button").forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === model.get("pinned")));
    });
  }

  function hover(index) {
    if (hovered === index) return;
    hovered = index;
    draw();
  }

  function pin(index) {
    model.set("pinned", model.get("pinned") === index ? -1 : index);
    model.save_changes();
    draw();
  }

  function loadWords() {
    const strongest = Math.max(...model.get("peaks"), 1e-9);
    words.replaceChildren(...model.get("labels").map((label, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "p2p-word";
      button.textContent = label;
      button.style.setProperty("--strength", model.get("peaks")[i] / strongest);
      button.addEventListener("mouseenter", () => hover(i));
      button.addEventListener("mouseleave", () => hover(-1));
      button.addEventListener("focus", () => hover(i));
      button.addEventListener("blur", () => hover(-1));
      button.addEventListener("click", () => pin(i));
      return button;
    }));
    words.style.display = positions() ? "none" : "flex";
    canvas.tabIndex = 0;
    hovered = -1;
  }

  function cellAt(event) {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * model.get("rows"));
    const column = Math.floor(((event.clientX - box.left) / box.width) * model.get("columns"));
    return row * model.get("columns") + column;
  }

  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  function move(event) {
    const step = STEPS[event.key];
    const keeps = event.key === "Enter" || event.key === " ";
    const leaves = event.key === "Escape" && asked() >= 0;
    if (!(step || keeps || leaves)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!positions()) return leaves ? ask(-1) : askBeside(step ?? [0, 0]);
    if (keeps) {
      if (shown() >= 0) pin(shown());
      return;
    }
    const rows = model.get("rows");
    const columns = model.get("columns");
    const now = Math.max(shown(), 0);
    const row = Math.min(Math.max(Math.floor(now / columns) + step[0], 0), rows - 1);
    const column = Math.min(Math.max((now % columns) + step[1], 0), columns - 1);
    hover(row * columns + column);
  }

  function askBeside(step) { // the middle at first, then one place further
    const [rows, columns] = [model.get("rows"), model.get("columns")];
    const now = asked();
    const middle = Math.floor(rows / 2) * columns + Math.floor(columns / 2);
    const row = Math.min(Math.max(Math.floor(now / columns) + step[0], 0), rows - 1);
    const column = Math.min(Math.max((now % columns) + step[1], 0), columns - 1);
    ask(now < 0 ? middle : row * columns + column);
  }

  canvas.addEventListener("mousemove", (event) => positions() && hover(cellAt(event)));
  canvas.addEventListener("mouseleave", () => positions() && hover(-1));
  canvas.addEventListener("click", (event) => {
    if (positions()) pin(cellAt(event));
    else ask(cellAt(event) === asked() ? -1 : cellAt(event));
  });
  canvas.addEventListener("keydown", move);
  canvas.addEventListener("blur", () => positions() && hover(-1));

  const reload = () => { loadWords(); draw(); };
  const later = () => queueMicrotask(reload); // several traits of one update come one by one
  const handlers = {
    "change:picture": loadPicture, "change:maps": later, "change:labels": later,
    "change:peaks": later, "change:notes": later, "change:outlines": later,
    "change:look": draw, "change:shared": draw, "change:pinned": draw,
    "change:asked": draw, "change:row_maps": later,
  };
  for (const [name, handler] of Object.entries(handlers)) model.on(name, handler);
  loadWords();
  loadPicture();
  return () => {
    for (const [name, handler] of Object.entries(handlers)) model.off(name, handler);
  };
}

export default { render };
