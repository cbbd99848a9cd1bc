// What was asked and answered, and what of it the model is told when it is asked again.

/** @typedef {import("./picture.js").Shot} Shot */
/** @typedef {[part: string, text: string]} Piece */
/** @typedef {{type: "picture", id: string} | {type: "text", text: string}} Content */
/** @typedef {{role: "user" | "assistant", content: string | Content[]}} Message */

/** A question, with the photographs that are new with it, and its answer as far as it has come. */
export class Exchange {
  /**
   * @param {string} question as it is sent; empty asks the bundle's own
   * @param {string} shown as the page shows it
   * @param {Shot[]} shots the earlier first
   */
  constructor(question, shown, shots) {
    this.question = question;
    this.shown = shown;
    this.shots = shots;
    /** @type {Piece[]} */
    this.pieces = [];
    /** @type {"asking" | "done" | "stopped" | "failed"} */
    this.state = "asking";
    this.raw = "";
    this.time = new Date().toISOString();
    this.seconds = 0;
  }

  /**
   * @param {string} part
   * @param {string} text
   */
  push(part, text) {
    const last = this.pieces.at(-1);
    if (last?.[0] === part) last[1] += text;
    else this.pieces.push([part, text]);
  }

  /** Begin again. */
  reset() {
    this.pieces = [];
    this.raw = "";
    this.state = "asking";
    this.time = new Date().toISOString();
  }

  /** Whether the conversation can go on from here. */
  get answered() {
    return (this.state === "done" || this.state === "stopped") && this.raw.trim() !== "";
  }
}

/**
 * The model's text as it would have written it, for an answer that was stopped before the workstation sent it whole.
 * @param {Piece[]} pieces
 */
export function rawOf(pieces) {
  const thought = [];
  const answer = [];
  for (const [part, text] of pieces) {
    if (part === "answer") answer.push(text);
    else if (part === "thought" || part === "other") thought.push(text);
    else thought.push(`${part[0].toUpperCase()}${part.slice(1)}: ${text}`);
  }
  if (pieces.every(([part]) => part === "other")) return thought.join("\n");
  return (thought.length ? `<think>${thought.join("\n")}` : "") + (answer.length ? `</think>\n<answer>${answer.join("")}` : "");
}

/**
 * The conversation about the photographs that are on the desk: it begins where they were first shown.
 * @param {Exchange[]} exchanges that were answered
 * @param {Exchange} next
 * @returns {{messages: Message[], shots: Shot[]}}
 */
export function told(exchanges, next) {
  const all = [...exchanges.filter((e) => e.answered), next];
  const begin = all.findLastIndex((e) => e.shots.length > 0);
  const those = all.slice(Math.max(0, begin));
  /** @type {Message[]} */
  const messages = [];
  for (const e of those) {
    /** @type {Content[]} */
    const content = e.shots.map(({ id }) => ({ type: "picture", id }));
    if (e.question || !content.length) content.push({ type: "text", text: e.question });
    messages.push({ role: "user", content });
    if (e !== next) messages.push({ role: "assistant", content: e.raw });
  }
  return { messages, shots: those.flatMap((e) => e.shots) };
}

/**
 * The photographs in the order of their dates; those without one stay where they are.
 * @template {{date: string}} P
 * @param {P[]} photos
 * @returns {P[]}
 */
export function inOrder(photos) {
  return photos.every((p) => p.date) ? photos.toSorted((a, b) => (a.date < b.date ? -1 : a.date > b.date ? 1 : 0)) : photos;
}
