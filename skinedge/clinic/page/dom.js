// Elements, made short.
import { say } from "./words.js";

/**
 * The element of an id that is known to exist.
 * @param {string} id
 * @returns {any}
 */
export const $ = (id) => document.getElementById(id);

/**
 * An element with properties and children; `t` (and `values`) are its words' key, `class` its classes, `data-…`, `aria-…` and
 * `role` attributes.
 * @param {string} tag
 * @param {Record<string, any>} [given]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function el(tag, given = {}, ...children) {
  const node = /** @type {any} */ (document.createElement(tag));
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || name === "t" || name === "values") continue;
    if (name === "class") node.className = value;
    else if (/^(data-|aria-|role$|lang$|for$|scope$)/.test(name)) node.setAttribute(name, value);
    else node[name] = value;
  }
  if (given.t) say(node, given.t, given.values);
  node.append(...children.filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

/**
 * A drawing of index.html, without meaning for who cannot see it.
 * @param {string} name
 */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/**
 * A button with a drawing and words; without `key` the words are its name only.
 * @param {string} drawing
 * @param {string} words
 * @param {() => void} press
 * @param {{bare?: boolean, class?: string}} [how]
 */
export function button(drawing, words, press, how = {}) {
  const node = el("button", { type: "button", class: `${how.class ?? "quiet"}${how.bare ? " small" : ""}` }, icon(drawing));
  if (how.bare) {
    say(node, words, {}, "aria-label");
    say(node, words, {}, "title");
  } else node.append(el("span", { t: words }));
  node.addEventListener("click", press);
  return node;
}

/**
 * The language of a model's text, for who has it read out.
 * @param {string} text
 */
export const languageOf = (text) => ((text.match(/[\u3400-\u9fff]/g)?.length ?? 0) * 4 > text.length ? "zh-Hans" : "en");

/**
 * A box that says what is wrong.
 * @param {"" | "bad"} kind
 * @param {...(Node | string)} inside
 */
export const alertBox = (kind, ...inside) => el("div", { class: `alert ${kind}` }, icon("warn"), el("div", {}, ...inside));
