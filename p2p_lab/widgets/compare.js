// Two pictures in one frame with a line between them, and what differs between them, four times.
const SIDE = 384; // pixels of the canvas along the picture's longer side
const LOUDER = 4;

function make(kind, className, parent, text = "") {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  parent.append(made);
  return made;
}

function render({ model, el }) {
  const root = make("div", "p2p-compare", el);
  const canvas = make("canvas", "p2p-compare-canvas", root);
  const side = make("div", "p2p-compare-side", root);
  const choices = ["left", "right"].map((name) => {
    const label = make("label", "", side, name === "left" ? "Left of the line" : "Right of it");
    const select = make("select", "p2p-select", label);
    select.addEventListener("change", () => put(name, Number(select.value)));
    return [name, select];
  });
  const label = make("label", "", side, "Line");
  const line = make("input", "", label);
  Object.assign(line, { type: "range", min: 0, max: 1, step: 0.01 });
  line.addEventListener("input", () => put("at", Number(line.value)));
  const tick = make("label", "p2p-tick", side);
  const change = make("input", "", tick);
  change.type = "checkbox";
  tick.append(`what differs, × ${LOUDER}`);
  change.addEventListener("change", () => put("change", change.checked));
  const read = make("div", "p2p-stage-read", side);
  read.setAttribute("aria-live", "polite");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  canvas.setAttribute("role", "img");
  let images = [];
  let round = 0;

  function put(name, value) {
    model.set(name, value);
    model.save_changes();
    draw();
  }

  const open = (url) => new Promise((done) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => done(null);
    image.src = url;
  });

  async function load() {
    const mine = ++round;
    const opened = (await Promise.all(model.get("pictures").map(open))).filter(Boolean);
    if (mine !== round || opened.length < 2) return; // newer pictures are on their way
    images = opened;
    const factor = SIDE / Math.max(images[0].width, images[0].height);
    canvas.width = Math.round(images[0].width * factor);
    canvas.height = Math.round(images[0].height * factor);
    for (const [, select] of choices) {
      select.replaceChildren(...model.get("names").map((name, i) => new Option(name, i)));
    }
    draw();
  }

  const index = (name) => Math.min(model.get(name), images.length - 1);

  function pixels(image) {
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  function draw() {
    if (images.length < 2) return;
    const [a, b] = [pixels(images[index("left")]), pixels(images[index("right")])];
    const { width, height } = canvas;
    const split = Math.round(model.get("at") * width);
    const out = new ImageData(width, height);
    let total = 0;
    for (let p = 0; p < out.data.length; p += 4) {
      const own = (p / 4) % width < split ? a.data : b.data;
      for (let c = 0; c < 3; c++) {
        const apart = Math.abs(a.data[p + c] - b.data[p + c]);
        total += apart;
        out.data[p + c] = model.get("change") ? LOUDER * apart : own[p + c];
      }
      out.data[p + 3] = 255;
    }
    context.putImageData(out, 0, 0);
    if (!model.get("change") && split > 0 && split < width) {
      context.fillStyle = "#ffffff";
      context.fillRect(split - 1, 0, 2, height);
    }
    for (const [name, select] of choices) select.value = String(index(name));
    [line.value, change.checked] = [model.get("at"), model.get("change")];
    const names = model.get("names");
    const pair = `${names[index("left")]} and ${names[index("right")]}`;
    const mean = total / (3 * width * height * 255);
    read.textContent = total === 0 ? `${pair} are identical.`
      : `${pair} differ by ${(100 * mean).toFixed(1)} % of the scale on average.`;
    canvas.setAttribute("aria-label", `${read.textContent} ${model.get("change")
      ? "What differs is bright." : `The line stands at ${Math.round(100 * model.get("at"))} % of the width.`}`);
  }

  let held = false;
  const follow = (event) => {
    const box = canvas.getBoundingClientRect();
    put("at", Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1));
  };
  canvas.addEventListener("pointerdown", (event) => {
    held = true;
    canvas.setPointerCapture(event.pointerId);
    follow(event);
  });
  canvas.addEventListener("pointermove", (event) => held && follow(event));
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => { held = false; });
  }

  const handlers = { "change:pictures": load, "change:names": load,
    "change:left": draw, "change:right": draw, "change:at": draw, "change:change": draw };
  for (const [name, handler] of Object.entries(handlers)) model.on(name, handler);
  load();
  return () => { for (const [name, handler] of Object.entries(handlers)) model.off(name, handler); };
}

export default { render };
