// An exchange as the page shows it: what was asked, the parts of the answer as they come, how it ended.
import { alertBox, button, el, icon, languageOf } from "./dom.js";
import { explained } from "./errors.js";
import { known, say, t, told } from "./words.js";

/** @typedef {import("./conversation.js").Exchange} Exchange */
/** @typedef {{text: Record<string, string>, synthetic: boolean, verdict: string} | null} Trust the certificate's sentence; none without one */

const LONG = 160; // characters: a longer answer is a text, not a name

export class Reply {
  /**
   * @param {Exchange} exchange
   * @param {number} number from 1
   * @param {{trust: () => Trust, again: () => void}} given
   */
  constructor(exchange, number, given) {
    this.exchange = exchange;
    this.given = given;
    const id = `question-${number}`;
    this.body = el("div", { class: "reply" });
    this.words = el("span");
    this.time = el("span", { class: "time", "aria-hidden": "true" });
    this.progress = el("p", { class: "progress" }, el("span", { class: "spin", "aria-hidden": "true" }), this.words, this.time);
    this.end = el("div", { class: "end" });
    this.node = el(
      "article",
      { class: "exchange", "aria-labelledby": id },
      el("h3", { class: "hidden", id, t: "turn.number", values: { n: number } }),
      this.#asked(),
      this.body,
      this.progress,
      this.end,
    );
    this.prefix = id;
    this.#text = null;
    this.#part = "";
  }

  /** @type {any} */
  #text;
  #part;

  #asked() {
    const { shots, shown } = this.exchange;
    const thumbs = shots.map((shot, i) => {
      const image = el("img", { src: shot.url });
      const caption = shots.length > 1 ? `report.picture` : "photo.alt";
      say(image, caption, { n: i + 1 }, "alt");
      return el("figure", {}, image, shots.length > 1 && el("figcaption", { t: "report.picture", values: { n: i + 1 } }));
    });
    return el(
      "div",
      { class: "asked" },
      thumbs.length ? el("div", { class: `thumbs${thumbs.length > 1 ? " two" : ""}` }, ...thumbs) : null,
      this.exchange.question
        ? el("p", { class: "text", lang: languageOf(shown) }, shown)
        : el("details", { class: "text" }, el("summary", { t: "turn.usual" }), el("p", { lang: languageOf(shown) }, shown)),
    );
  }

  /**
   * What it waits for.
   * @param {string} key
   * @param {Record<string, string | number>} [values]
   */
  wait(key, values) {
    this.progress.hidden = false;
    this.time.hidden = key === "ask.busy"; // one number at a time
    say(this.words, key, values);
  }

  /** @param {number} seconds so far */
  tick(seconds) {
    say(this.time, "answer.seconds", { seconds: Math.floor(seconds) });
  }

  /**
   * More of the answer.
   * @param {string} part
   * @param {string} text
   */
  push(part, text) {
    if (part !== this.#part) {
      if (!text.trim()) return; // white space between two parts is none
      this.#begin(part);
    }
    this.#text.append(text);
    if (part === "answer") this.#text.parentNode.parentNode.classList.toggle("long", this.#text.textContent.length > LONG);
  }

  /** @param {string} part */
  #begin(part) {
    this.#settle();
    this.#part = part;
    const id = `${this.prefix}-${this.body.children.length}`;
    this.#text = el("p", { class: "text writing" });
    const inside = [el("h4", { id, t: `part.${part}` }), this.#text];
    const section = part === "answer" ? el("section", { class: "answer", "aria-labelledby": id }, el("div", {}, ...inside), this.#trust()) : el("section", { class: `part ${part}`, "aria-labelledby": id }, ...inside);
    this.body.append(section);
  }

  /** The part that was written is whole. */
  #settle() {
    if (!this.#text) return;
    this.#text.classList.remove("writing");
    const text = this.#text.textContent.trim();
    this.#text.textContent = text;
    this.#text.lang = languageOf(text);
    if (!text) this.#text.closest("section").remove();
    this.#text = null;
    this.#part = "";
  }

  #trust() {
    const box = el("p");
    this.trustBox = box;
    this.translate();
    return box;
  }

  /** The language has changed: the certificate's sentence is made of several. */
  translate() {
    if (!this.trustBox) return;
    const trust = this.given.trust();
    this.trustBox.className = trust && trust.verdict !== "fail" ? "trust" : "trust none";
    const words = el("span");
    if (!trust) say(words, "reliability.no_certificate");
    else {
      const { text, lang } = told(trust.text);
      words.append(el("span", { lang }, text));
      if (trust.synthetic) words.append(" ", el("span", { t: "reliability.synthetic" }));
      if (trust.verdict === "fail") words.append(" ", el("strong", { t: "reliability.failed" }));
    }
    this.trustBox.replaceChildren(icon(trust && trust.verdict !== "fail" ? "shield" : "warn"), words);
  }

  /**
   * The answer is whole, or was stopped.
   * @param {{finish: string, seconds: number, tokens: number, faults: string[], answer: boolean}} how
   */
  finish({ finish, seconds, tokens, faults, answer }) {
    this.#settle();
    this.progress.hidden = true;
    const facts = [el("span", { t: "answer.took", values: { seconds: seconds.toFixed(1) } })];
    if (tokens) facts.push(el("span", { t: "answer.tokens", values: { n: tokens } }));
    facts.push(el("span", {}, new Date(this.exchange.time).toLocaleString(t("language.tag"), { dateStyle: "medium", timeStyle: "short" })));
    const notes = [];
    if (finish === "length" || finish === "context") notes.push(alertBox("", el("strong", { t: "answer.cut" }), el("span", { t: "answer.cut.advice" })));
    if (finish === "cancelled") notes.push(alertBox("", el("strong", { t: "answer.stopped" }), el("span", { t: "answer.stopped.advice" })));
    else if (!answer && finish === "stop") notes.push(alertBox("", el("strong", { t: "answer.none" })));
    const others = faults.filter((f) => !f.startsWith("cut short")); // that has just been said
    if (others.length) notes.push(alertBox("", el("strong", { t: "answer.faults" }), el("ul", {}, ...others.map(fault))));
    this.end.replaceChildren(...notes, el("p", { class: "facts" }, ...facts));
  }

  /** @param {unknown} error */
  fail(error) {
    this.#settle();
    this.progress.hidden = true;
    this.end.replaceChildren(alertBox("bad", ...explained(error), el("div", { class: "row" }, button("again", "error.again", this.given.again, { class: "primary" }))));
  }

  /** Begin again. */
  reset() {
    this.#text = null;
    this.#part = "";
    this.trustBox = null;
    this.body.replaceChildren();
    this.end.replaceChildren();
    this.progress.hidden = false;
  }
}

/** @param {string} text "name: detail" */
function fault(text) {
  const [name, ...detail] = text.split(": ");
  const key = `fault.${name.replaceAll(" ", "_")}`;
  const words = el("li");
  if (known(key)) words.append(el("span", { t: key }), detail.length ? `: ${detail.join(": ")}` : "");
  else words.append(text);
  return words;
}
