// The alignment as a table of buttons: which source token (row) feeds which target token (column).
const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function make(kind, className, parent, text = "") {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  parent.append(made);
  return made;
}

function render({ model, el }) {
  const root = make("div", "p2p-grid", el);
  const read = make("div", "p2p-stage-read", el);
  read.setAttribute("aria-live", "polite");
  let cells = [];
  const links = () => model.get("links");
  const has = (i, j) => links().some(([a, b]) => a === i && b === j);

  function toggle(i, j) {
    const rest = links().filter(([a, b]) => a !== i || b !== j);
    model.set("links", has(i, j) ? rest : [...rest, [i, j]]);
    model.save_changes();
    say(i, j);
  }

  function say(i, j) {
    const [from, to] = [model.get("rows")[i], model.get("columns")[j]];
    read.textContent = `“${to}” ${has(i, j) ? "takes" : "does not take"} the map of “${from}”.`;
  }

  function move(event, i, j) {
    const step = MOVES[event.key];
    const next = step && cells[i + step[0]]?.[j + step[1]];
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    for (const row of cells) for (const one of row) one.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  function build() {
    const [rows, columns] = [model.get("rows"), model.get("columns")];
    root.replaceChildren();
    const table = make("table", "", root);
    table.setAttribute("aria-label", "Alignment: source tokens in rows, target tokens in columns");
    const head = make("tr", "", make("thead", "", table));
    make("th", "p2p-corner", head, "source ↓ target →");
    for (const name of columns) {
      const th = make("th", "", head);
      th.scope = "col";
      make("span", "", th, name);
    }
    const body = make("tbody", "", table);
    cells = rows.map((name, i) => {
      const line = make("tr", "", body);
      make("th", "", line, name).scope = "row";
      return columns.map((other, j) => {
        const button = make("button", "", make("td", "", line));
        button.type = "button";
        button.tabIndex = i || j ? -1 : 0;
        button.title = `${name} → ${other}`;
        button.setAttribute("aria-label", `${name} feeds ${other}`);
        button.addEventListener("click", () => toggle(i, j));
        button.addEventListener("focus", () => say(i, j));
        button.addEventListener("keydown", (event) => move(event, i, j));
        return button;
      });
    });
    mark();
  }

  function mark() {
    cells.forEach((row, i) => row.forEach((button, j) => {
      button.setAttribute("aria-pressed", String(has(i, j)));
    }));
  }

  const later = () => queueMicrotask(build); // both names come in one update
  const handlers = { "change:rows": later, "change:columns": later, "change:links": mark };
  for (const [name, handler] of Object.entries(handlers)) model.on(name, handler);
  build();
  return () => { for (const [name, handler] of Object.entries(handlers)) model.off(name, handler); };
}

export default { render };
