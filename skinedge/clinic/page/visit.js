// A visit: photographs, questions and answers, all of it in this page's memory and gone with it.
import { forget } from "./api.js";
import { Asking } from "./asking.js";
import { Exchange } from "./conversation.js";
import { Desk } from "./desk.js";
import { choice } from "./dialogs.js";
import { $, languageOf } from "./dom.js";
import { Reply } from "./reply.js";
import { announce } from "./speech.js";
import { say, t } from "./words.js";

/** @typedef {{name: string, target: string, scheme: string, bits: number, digest: string, skinedge: string, licence: string, question: string, lineage: {kind: string, digest: string, note: string}[], certificate: null | {verdict: string, reliability: Record<string, string>, data: string, synthetic: boolean, n: number, by_skin: Record<string, number>, limits: Record<string, string>[]}, limits: {max_bytes: number}}} Model */

export class Visit {
  constructor() {
    /** @type {Model | null} */
    this.model = null;
    /** @type {Exchange[]} */
    this.exchanges = [];
    /** @type {Reply[]} */
    this.replies = [];
    /** @type {Asking | null} */
    this.asking = null;
    this.reference = "";
    this.desk = new Desk({
      changed: () => this.show(),
      renew: () => this.clear(),
      mostBytes: () => this.model?.limits.max_bytes ?? 32 << 20,
      used: (shot) => this.exchanges.some((e) => e.shots.includes(shot)),
    });
    this.#listen();
  }

  get empty() {
    return !this.exchanges.length && !this.desk.cards.length;
  }

  /** Whether the photographs on the desk are others than those last asked about. */
  get fresh() {
    const last = this.exchanges.findLast((e) => e.shots.length > 0 && (e.answered || e.state === "asking"));
    const { shots } = this.desk;
    return !last || last.shots.length !== shots.length || last.shots.some((s, i) => s !== shots[i]);
  }

  async ask() {
    const words = $("question").value.trim();
    if (this.asking) return;
    if (!this.desk.ready) return this.#refuse();
    if (!words && !this.fresh) return this.#need("ask.empty", "question");
    const shots = this.fresh ? this.desk.shots : [];
    const { sent, shown } = this.#worded(words, shots.length);
    this.#dropUnanswered();
    const exchange = new Exchange(sent, shown, shots);
    const reply = new Reply(exchange, this.exchanges.length + 1, { trust: () => this.trust(), again: () => void this.again(exchange) });
    this.exchanges.push(exchange);
    this.replies.push(reply);
    $("exchanges").append(reply.node);
    $("question").value = "";
    await this.#run(exchange, reply);
  }

  /** Ask the same once more. @param {Exchange} exchange */
  async again(exchange) {
    if (this.asking) return;
    const reply = this.replies[this.exchanges.indexOf(exchange)];
    exchange.reset();
    reply.reset();
    await this.#run(exchange, reply);
  }

  /**
   * @param {string} words
   * @param {number} photographs
   */
  #worded(words, photographs) {
    if (photographs < 2) return { sent: words, shown: words || (this.model?.question ?? "") };
    const dates = this.desk.photos.map((p) => p.date || t("compare.undated"));
    const sent = `${t("compare.dates", { first: dates[0], second: dates[1] })} ${words || t("compare.question")}`;
    return { sent, shown: sent };
  }

  /**
   * @param {Exchange} exchange
   * @param {Reply} reply
   */
  async #run(exchange, reply) {
    const asking = (this.asking = new Asking(this.exchanges.slice(0, this.exchanges.indexOf(exchange)), exchange, reply));
    const held = document.activeElement;
    this.show();
    if (held === $("ask") || (held && !held.isConnected)) $("stop").focus();
    follow(reply.node, true);
    const watch = new MutationObserver(() => follow(reply.node, false));
    watch.observe(reply.node, { childList: true, subtree: true, characterData: true });
    await asking.run();
    this.asking = null;
    const stopped = document.activeElement === $("stop");
    this.show();
    if (stopped) $("question").focus({ preventScroll: true });
    watch.takeRecords();
    watch.disconnect();
    follow(reply.node, false);
  }

  stop() {
    this.asking?.stop();
  }

  /** A question that was not answered gives way to the next. */
  #dropUnanswered() {
    const last = this.exchanges.at(-1);
    if (!last || last.answered) return;
    this.exchanges.pop();
    this.replies.pop()?.node.remove();
  }

  #refuse() {
    if (!this.desk.cards.length) return this.#need("ask.no_photo", "choose");
    if (this.desk.comparing && this.desk.cards.length < 2) return this.#need("ask.no_second", "choose");
    return this.#need(this.desk.cards.some((c) => c.photo.busy) ? "ask.looking" : "ask.bad_photo", "question");
  }

  /**
   * @param {string} key
   * @param {string} where
   */
  #need(key, where) {
    say($("ask-note"), key);
    announce(t(key));
    $(where).focus();
  }

  /** The certificate's sentence, as answers show it. @returns {import("./reply.js").Trust} */
  trust() {
    const c = this.model?.certificate;
    return c ? { text: c.reliability, synthetic: c.synthetic, verdict: c.verdict } : null;
  }

  /** Begin a new visit, if that is meant. */
  async renew() {
    if (!this.empty && (await choice("d-confirm")) !== "yes") return;
    await this.clear();
    $("choose").focus();
    announce(t("visit.begun"));
  }

  /** Forget everything, here and in the workstation. */
  async clear() {
    this.stop();
    const shots = new Set(this.exchanges.flatMap((e) => e.shots));
    this.exchanges = [];
    this.replies = [];
    this.reference = "";
    $("exchanges").replaceChildren();
    $("spoken").replaceChildren();
    $("question").value = $("report-reference").value = "";
    this.desk.clear();
    await Promise.all([...shots].map((s) => s.forget()));
  }

  show() {
    const { asking, desk } = this;
    const { fresh } = this;
    const compared = desk.comparing && desk.cards.length === 2;
    const going = this.exchanges.length > 0;
    const answered = this.exchanges.some((e) => e.answered);
    $("welcome").hidden = going;
    $("line").hidden = !(answered && desk.ready && fresh) || asking !== null;
    $("ask").hidden = asking !== null;
    $("stop").hidden = asking === null;
    say($("ask-words"), desk.warned && fresh ? "ask.anyway" : "ask.button");
    say($("question-label"), going && !fresh ? "ask.follow" : "ask.label");
    const own = compared ? t("compare.question") : (this.model?.question ?? "");
    $("question").placeholder = going && !fresh ? t("ask.follow.hint") : own;
    $("question").lang = going && !fresh ? "" : languageOf(own);
    say($("ask-note"), asking ? "ask.note.asking" : going && !fresh ? "ask.note.follow" : "ask.note");
    $("open-report").disabled = asking !== null || !answered;
    $("new-visit").disabled = this.empty;
  }

  /** The language has changed. */
  translate() {
    for (const reply of this.replies) reply.translate();
    this.show();
  }

  #listen() {
    $("composer").addEventListener("submit", (/** @type {Event} */ e) => {
      e.preventDefault();
      void this.ask();
    });
    $("stop").addEventListener("click", () => this.stop());
    $("new-visit").addEventListener("click", () => void this.renew());
    addEventListener("beforeunload", (e) => {
      if (!this.empty) e.preventDefault();
    });
    addEventListener("pagehide", () => {
      for (const shot of new Set([...this.desk.shots, ...this.exchanges.flatMap((e) => e.shots)])) {
        if (shot?.id) void forget(shot.id).catch(() => {});
      }
    });
  }
}

/**
 * Keep the end of what is written in sight, unless the reader has gone elsewhere.
 * @param {Element} node
 * @param {boolean} anyway
 */
function follow(node, anyway) {
  const composer = $("composer");
  const covered = getComputedStyle(composer).position === "sticky" ? composer.offsetHeight : 0;
  const beyond = node.getBoundingClientRect().bottom - (innerHeight - covered - 16);
  if (beyond > 0 && (anyway || beyond < 240)) scrollBy({ top: beyond, behavior: "instant" });
}
