// Who is there: only where the workstation keeps a list of operators.
import { ApiError, enter } from "./api.js";
import { open } from "./dialogs.js";
import { $ } from "./dom.js";
import { say } from "./words.js";

/** @type {Promise<boolean> | null} */
let asked = null;

/**
 * Ask for a name and a passphrase, once however many requests wait for it.
 * @returns {Promise<boolean>} false where the dialog was closed
 */
export function logIn() {
  asked ??= new Promise((resolve) => {
    const dialog = open("d-login");
    $("login-error").hidden = true;
    $("login-passphrase").value = "";
    dialog.addEventListener("close", () => {
      asked = null;
      $("login-passphrase").value = "";
      resolve(dialog.returnValue === "in");
    }, { once: true });
  });
  return asked;
}

export function start() {
  $("login-form").addEventListener("submit", async (/** @type {Event} */ e) => {
    e.preventDefault();
    $("login-go").disabled = true;
    try {
      await enter($("login-name").value, $("login-passphrase").value);
      $("d-login").close("in");
    } catch (error) {
      const { code, wait } = error instanceof ApiError ? error : new ApiError("internal");
      say($("login-error"), code === "too_many_attempts" ? "login.wait" : `error.${code}`, { seconds: wait });
      $("login-error").hidden = false;
      $("login-passphrase").select();
      $("login-passphrase").focus();
    }
    $("login-go").disabled = false;
  });
}
