// Every word of the page comes from en.json or zh.json; an element remembers its key, so that the language can change.

/** @type {Record<string, string>} */
let words = {};

/** The language that is shown. */
export let language = "en";

/** @param {string} name "en" or "zh" */
export async function load(name) {
  const response = await fetch(`/assets/${name}.json`);
  words = await response.json();
  language = name;
  document.documentElement.lang = words["language.tag"];
  document.title = words["title"];
  apply(document.body);
}

/**
 * @param {string} key
 * @param {Record<string, string | number>} [values] in place of {name}
 */
export function t(key, values = {}) {
  return (words[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/** @param {string} key */
export const known = (key) => key in words;

/**
 * Words for an element, or for one of its attributes.
 * @param {Element} node
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 * @param {string} [attribute]
 */
export function say(node, key, values = {}, attribute = "") {
  const name = attribute ? `data-t-${attribute}` : "data-t";
  node.setAttribute(name, key);
  if (Object.keys(values).length) node.setAttribute(`data-v${name.slice(6)}`, JSON.stringify(values));
  else node.removeAttribute(`data-v${name.slice(6)}`);
  if (attribute) node.setAttribute(attribute, t(key, values));
  else node.textContent = t(key, values);
}

/** @param {Element} root */
export function apply(root) {
  for (const node of root.querySelectorAll("*")) {
    for (const { name, value } of [...node.attributes]) {
      if (name !== "data-t" && !name.startsWith("data-t-")) continue;
      const values = JSON.parse(node.getAttribute(`data-v${name.slice(6)}`) ?? "{}");
      say(node, value, values, name.slice(7));
    }
  }
}

/**
 * A sentence that the workstation gave in every language; what it could not translate is in English and says so.
 * @param {Record<string, string>} sentence by language
 * @returns {{text: string, lang: string | undefined}}
 */
export function told(sentence) {
  const text = sentence[language];
  return { text, lang: language !== "en" && text === sentence.en ? "en" : undefined };
}
