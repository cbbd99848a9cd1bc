// The self-test: the workstation looks at itself, one check after the other.
import { call, events } from "./api.js";
import { $, alertBox, el, icon } from "./dom.js";
import { explained } from "./errors.js";
import { announce } from "./speech.js";
import { known, say, t } from "./words.js";

/** @typedef {{name: string, passed: boolean | null, detail: string, seconds: number}} Check */

export function start() {
  $("selftest-start").addEventListener("click", () => void run());
}

async function run() {
  const list = $("selftest-list");
  list.replaceChildren();
  $("selftest-start").disabled = true;
  say($("selftest-end"), "selftest.running");
  try {
    for await (const { name, data } of events(await call("POST", "/api/selftest", {}))) {
      if (name === "check") list.append(line(data));
      else if (name === "done") say($("selftest-end"), data.passed ? "selftest.passed" : "selftest.failed");
    }
  } catch (error) {
    $("selftest-end").removeAttribute("data-t");
    $("selftest-end").replaceChildren(alertBox("bad", ...explained(error)));
  }
  $("selftest-start").disabled = false;
  $("selftest-start").focus();
}

/** @param {Check} check */
function line({ name, passed, detail, seconds }) {
  const state = passed === null ? "nothing" : passed ? "passed" : "failed";
  const key = `check.${name}`;
  announce(`${known(key) ? t(key) : name}: ${t(`selftest.is.${state}`)}`);
  return el(
    "li",
    { class: state },
    icon(passed === null ? "info" : passed ? "check" : "warn"),
    el("span", {}, el("strong", known(key) ? { t: key } : {}, known(key) ? "" : name), " ", el("span", { class: "soft", t: `selftest.is.${state}` })),
    el("span", { class: "soft", t: "answer.seconds", values: { seconds: seconds.toFixed(1) } }),
    detail && el("span", { class: "detail", lang: "en" }, detail),
  );
}
