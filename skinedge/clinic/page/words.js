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
 * The certificate's sentence in the page's language; one that has none of the known forms stays as it is, in English.
 * @param {string} sentence
 * @param {Record<string, string>} english the words of en.json
 * @returns {{text: string, lang: string | undefined}}
 */
export function reliability(sentence, english) {
  const forms = ["reliability.agree", "reliability.unknown", "reliability.few", "reliability.none"];
  const said = sentence.split("; ").map((piece) => {
    for (const key of forms) {
      const names = [...english[key].matchAll(/\{(\w+)\}/g)].map((m) => m[1]);
      const pattern = english[key].replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{\w+\}/g, "(.+)");
      const found = piece.match(new RegExp(`^${pattern}$`));
      if (found) return t(key, Object.fromEntries(names.map((n, i) => [n, found[i + 1].replaceAll(" and ", t("reliability.and"))])));
    }
    return null;
  });
  if (said.includes(null)) return { text: `${sentence.slice(0, 1).toUpperCase()}${sentence.slice(1)}.`, lang: "en" };
  return { text: t("reliability.sentence", { said: said.join(t("reliability.join")) }), lang: undefined };
}
