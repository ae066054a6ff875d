// Small helpers for the page. Text from a user becomes text nodes and nothing else.

/** @typedef {string | Node | null | undefined | false} Child */

/** Make an element. @template {keyof HTMLElementTagNameMap} T @param {T} tag
 * @param {Record<string, any>} [props] attributes; `on…` are listeners, `class` is the class
 * @param {...(Child | Child[])} children @returns {HTMLElementTagNameMap[T]} */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** @param {Element} node @param {...(Child | Child[])} children */
export function fill(node, ...children) {
  const kept = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  node.replaceChildren(.../** @type {(string | Node)[]} */ (kept));
}

/** Find an element that the page has. @template {HTMLElement} [T=HTMLElement] @param {string} id
 * @returns {T} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`The page has no element ${id}.`);
  return /** @type {T} */ (found);
}

/** @param {number} value @param {number} [digits] @returns {string} without needless zeros */
export function short(value, digits = 2) {
  return String(Number(value.toFixed(digits)));
}
