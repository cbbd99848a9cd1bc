// Shortcuts: all with Control (or Command), so that none is in the way of typing or of a screen reader's single keys.
import { anyOpen, open } from "./dialogs.js";
import { $ } from "./dom.js";

/** @typedef {import("./visit.js").Visit} Visit */

/**
 * @param {Visit} visit
 * @param {() => void} report
 */
export function start(visit, report) {
  document.addEventListener("keydown", (e) => {
    if (anyOpen() || e.isComposing) return;
    const control = (e.ctrlKey || e.metaKey) && !e.altKey && !e.shiftKey;
    if (e.key === "F1") open("d-help");
    else if (control && e.key === "Enter") visit.asking ? stop(visit) : void visit.ask();
    else if (control && e.key === "o") $("file").click();
    else if (control && e.key === "s") report();
    else return;
    e.preventDefault();
  });
}

/** A key that is held down, or pressed twice, must not stop what it began. @param {Visit} visit */
function stop(visit) {
  if (visit.asking && visit.asking.elapsed > 1) visit.stop();
}
