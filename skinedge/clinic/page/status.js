// How the model is, in the bar: asked often while something happens, seldom else.
import { call } from "./api.js";
import { $ } from "./dom.js";
import { announce } from "./speech.js";
import { say, t } from "./words.js";

/** @type {string} */
let state = "connecting";
/** @type {ReturnType<typeof setTimeout> | undefined} */
let next;

/**
 * @param {() => void} back is told when the workstation answers again after it did not
 */
export function start(back) {
  const ask = async () => {
    let now = "lost";
    let detail = "";
    try {
      const body = await (await call("GET", "/api/status")).json();
      now = body.state;
      detail = body.detail;
    } catch {
      // the state says it
    }
    show(now, detail, back);
    next = setTimeout(ask, now === "ready" ? 8000 : 2000);
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    clearTimeout(next);
    void ask();
  });
  void ask();
}

/**
 * @param {string} now
 * @param {string} detail
 * @param {() => void} back
 */
function show(now, detail, back) {
  const before = state;
  if (now === before) return;
  state = now;
  $("state").dataset.state = now;
  say($("state-words"), `status.${now}`);
  const grave = now === "lost" || now === "failed" || now === "closed";
  $("banner").hidden = !grave;
  if (grave) say($("banner"), `status.${now}.more`, { detail });
  else if (before === "lost" || before === "closed") back();
  if (now === "restarting" || (now === "ready" && before !== "busy" && before !== "connecting")) announce(t(`status.${now}`));
}
