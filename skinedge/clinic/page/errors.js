// What went wrong, in the page's language; the workstation's own sentence beside it where that says more.
import { ApiError } from "./api.js";
import { el } from "./dom.js";
import { known } from "./words.js";

// Codes whose sentence from the workstation names something that ours cannot.
const DETAILED = ["unreadable_photograph", "not_a_photograph", "too_large", "engine_failed", "bad_prompt", "bad_request", "log_failed", "internal", "not_found"];

/**
 * @param {unknown} error
 * @returns {Node[]}
 */
export function explained(error) {
  const { code, detail } = error instanceof ApiError ? error : new ApiError("internal", String(error));
  const key = known(`error.${code}`) ? code : "internal";
  const more = detail && DETAILED.includes(key) ? el("p", { class: "detail", lang: "en" }, detail) : null;
  return [el("strong", { t: `error.${key}` }), el("span", { t: `error.${key}.advice` }), ...(more ? [more] : [])];
}
