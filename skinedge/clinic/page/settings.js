// Language, theme and size of type: all that this page keeps when it is closed. Nothing of a patient is.
import { load } from "./words.js";

const NAMES = { language: ["en", "zh"], theme: ["system", "light", "dark", "darkroom"], size: ["100", "125", "150"] };
const dark = matchMedia("(prefers-color-scheme: dark)");

/**
 * @param {"language" | "theme" | "size"} name
 * @returns {string}
 */
export function setting(name) {
  let kept = null;
  try {
    kept = localStorage.getItem(`skinedge.${name}`);
  } catch {
    // storage may be forbidden; the page works without
  }
  if (kept && NAMES[name].includes(kept)) return kept;
  return name === "language" && navigator.language.startsWith("zh") ? "zh" : NAMES[name][0];
}

/**
 * @param {"language" | "theme" | "size"} name
 * @param {string} value
 */
export async function choose(name, value) {
  try {
    localStorage.setItem(`skinedge.${name}`, value);
  } catch {
    // for this time only, then
  }
  if (name === "language") await load(value);
  show();
}

/** Show the theme and the size that are set, and mark them in the dialog. */
export function show() {
  const theme = setting("theme");
  const root = document.documentElement;
  root.dataset.theme = theme !== "system" ? theme : dark.matches ? "dark" : "light";
  root.dataset.size = setting("size");
  for (const input of document.querySelectorAll("#d-display input")) {
    const radio = /** @type {HTMLInputElement} */ (input);
    radio.checked = radio.value === setting(/** @type {any} */ (radio.name));
  }
}

/** Follow the dialog and the system. */
export function start() {
  dark.addEventListener("change", show);
  for (const input of document.querySelectorAll("#d-display input")) {
    input.addEventListener("change", () => {
      const radio = /** @type {HTMLInputElement} */ (input);
      void choose(/** @type {any} */ (radio.name), radio.value);
    });
  }
  show();
}
