// The dialog that crops and turns: with the pointer, with arrow keys on the corners, or with four numbers.
import { choice, open } from "./dialogs.js";
import { $ } from "./dom.js";
import { WHOLE, draw, turned } from "./picture.js";
import { announce } from "./speech.js";
import { t } from "./words.js";

/** @typedef {import("./picture.js").Edit} Edit */
/** @typedef {import("./picture.js").Box} Box */

const LEAST = 0.02; // of the picture's side
const PREVIEW = 1_500_000; // pixels

/** @type {Edit} */
let edit = { turns: 0, box: WHOLE };
/** @type {ImageBitmap | null} */
let bitmap = null;

/** @param {number} v @param {number} low @param {number} high */
const within = (v, low, high) => Math.min(high, Math.max(low, v));

/**
 * Ask for a picture's edit.
 * @param {Blob} file
 * @param {Edit} before
 * @returns {Promise<Edit | null>} nothing where it was left as it is
 */
export async function editPhoto(file, before) {
  bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  edit = before;
  const dialog = open("d-edit");
  paint();
  const done = await choice("d-edit");
  dialog.scrollTop = 0;
  bitmap.close();
  bitmap = null;
  return done === "apply" ? edit : null;
}

function paint() {
  const canvas = $("edit-canvas");
  if (bitmap) draw(canvas, bitmap, { turns: edit.turns, box: WHOLE }, PREVIEW);
  $("edit-frame").style.width = `min(100%, ${(48 * canvas.width) / canvas.height}vh)`; // as high as half the window
  place();
}

/** Put the box and the numbers where the edit is. */
function place() {
  const { x, y, w, h } = edit.box;
  const style = $("edit-box").style;
  style.left = `${100 * x}%`;
  style.top = `${100 * y}%`;
  style.width = `${100 * w}%`;
  style.height = `${100 * h}%`;
  for (const [name, value] of Object.entries(edit.box)) $(`edit-${name}`).value = Math.round(100 * value);
}

/**
 * Move edges by parts of the picture; those that are not named stay.
 * @param {Box} box
 * @param {string} edge of n, s, e, w; "" moves the whole
 * @param {number} dx
 * @param {number} dy
 * @returns {Box}
 */
export function moved({ x, y, w, h }, edge, dx, dy) {
  if (!edge) return { x: within(x + dx, 0, 1 - w), y: within(y + dy, 0, 1 - h), w, h };
  let [left, top, right, bottom] = [x, y, x + w, y + h];
  if (edge.includes("w")) left = within(left + dx, 0, right - LEAST);
  if (edge.includes("e")) right = within(right + dx, left + LEAST, 1);
  if (edge.includes("n")) top = within(top + dy, 0, bottom - LEAST);
  if (edge.includes("s")) bottom = within(bottom + dy, top + LEAST, 1);
  return { x: left, y: top, w: right - left, h: bottom - top };
}

/** @param {Box} box */
function set(box) {
  edit = { ...edit, box };
  place();
}

/** @param {PointerEvent} e */
function drag(e) {
  const frame = $("edit-frame");
  const target = /** @type {HTMLElement} */ (e.target);
  const edge = target.dataset.edge ?? "";
  if (!edge && target !== $("edit-box")) return;
  e.preventDefault();
  if (edge) target.focus();
  const { width, height } = frame.getBoundingClientRect();
  const { box } = edit;
  frame.setPointerCapture(e.pointerId);
  const move = (/** @type {PointerEvent} */ m) => set(moved(box, edge, (m.clientX - e.clientX) / width, (m.clientY - e.clientY) / height));
  frame.addEventListener("pointermove", move);
  frame.addEventListener("lostpointercapture", () => frame.removeEventListener("pointermove", move), { once: true });
}

/** @param {KeyboardEvent} e */
function arrow(e) {
  const edge = /** @type {HTMLElement} */ (e.target).dataset.edge;
  const step = e.shiftKey ? 0.1 : 0.01;
  const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[e.key];
  if (!edge || !by) return;
  e.preventDefault();
  set(moved(edit.box, edge, by[0], by[1]));
  const { x, y, w, h } = edit.box;
  const percent = (/** @type {number} */ v) => Math.round(100 * v);
  announce(t("edit.now", { x: percent(x), y: percent(y), w: percent(w), h: percent(h) }));
}

function typed() {
  const [x, y, w, h] = ["x", "y", "w", "h"].map((name) => within(Number($(`edit-${name}`).value) / 100 || 0, 0, 1));
  const left = within(x, 0, 1 - LEAST);
  const top = within(y, 0, 1 - LEAST);
  set({ x: left, y: top, w: within(w, LEAST, 1 - left), h: within(h, LEAST, 1 - top) });
}

/** @param {1 | -1} by */
function turn(by) {
  edit = turned(edit, by);
  paint();
}

export function start() {
  $("edit-frame").addEventListener("pointerdown", drag);
  $("edit-frame").addEventListener("keydown", arrow);
  for (const name of ["x", "y", "w", "h"]) $(`edit-${name}`).addEventListener("change", typed);
  $("edit-left").addEventListener("click", () => turn(-1));
  $("edit-right").addEventListener("click", () => turn(1));
  $("edit-reset").addEventListener("click", () => {
    edit = { turns: 0, box: WHOLE };
    paint();
  });
  $("edit-apply").addEventListener("click", () => $("d-edit").close("apply"));
}
