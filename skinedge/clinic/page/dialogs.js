// Dialogs are <dialog>: Escape closes them, the focus stays inside and goes back to where it was.
import { $ } from "./dom.js";

/** Let every button with `data-close` close its dialog, and a click beside a dialog too. */
export function start() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (e) => {
      const target = /** @type {Element} */ (e.target);
      if (target.closest("[data-close]")) dialog.close("");
    });
  }
}

/** @param {string} id */
export function open(id) {
  const dialog = /** @type {HTMLDialogElement} */ ($(id));
  if (!dialog.open) {
    dialog.returnValue = "";
    dialog.showModal();
    dialog.scrollTop = 0;
  }
  return dialog;
}

/**
 * Open a dialog and wait for the value of the button that was pressed; "" where it was closed.
 * @param {string} id
 * @returns {Promise<string>}
 */
export function choice(id) {
  const dialog = open(id);
  return new Promise((resolve) => {
    const press = (/** @type {Event} */ e) => {
      const button = /** @type {Element} */ (e.target).closest("button[value]");
      if (button) dialog.close(/** @type {HTMLButtonElement} */ (button).value);
    };
    dialog.addEventListener("click", press);
    dialog.addEventListener("close", () => {
      dialog.removeEventListener("click", press);
      resolve(dialog.returnValue);
    }, { once: true });
  });
}

/** Whether any is open. */
export const anyOpen = () => document.querySelector("dialog[open]") !== null;
