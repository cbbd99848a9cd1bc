// One question from its sending to its end: waiting, being read, being written, stopped, failed.
import { ApiError, call, events, fromBody } from "./api.js";
import { rawOf, told } from "./conversation.js";
import { Speaker, announce } from "./speech.js";
import { t } from "./words.js";

/** @typedef {import("./conversation.js").Exchange} Exchange */
/** @typedef {import("./reply.js").Reply} Reply */

/** A question under way. */
export class Asking {
  /**
   * @param {Exchange[]} before
   * @param {Exchange} exchange
   * @param {Reply} reply
   */
  constructor(before, exchange, reply) {
    this.before = before;
    this.exchange = exchange;
    this.reply = reply;
    this.stopping = new AbortController();
    this.speaker = new Speaker();
    this.begun = performance.now();
  }

  get elapsed() {
    return (performance.now() - this.begun) / 1000;
  }

  stop() {
    this.stopping.abort();
  }

  /** Never raises: an error is shown where the answer would be. */
  async run() {
    const clock = setInterval(() => this.reply.tick(this.elapsed), 1000);
    this.reply.tick(0);
    this.reply.wait("ask.sending");
    try {
      await this.#read(await this.#ask());
    } catch (error) {
      if (this.stopping.signal.aborted) this.#stopped();
      else this.#failed(error instanceof ApiError ? error : new ApiError("offline"));
    } finally {
      clearInterval(clock);
    }
  }

  /** @returns {Promise<Response>} the stream */
  async #ask() {
    const { signal } = this.stopping;
    for (let sent = 0; ; ) {
      const { messages, shots } = told(this.before, this.exchange);
      try {
        return await call("POST", "/api/ask", { messages }, signal);
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (error.code === "picture_gone" && sent++ < 2) for (const shot of shots) await shot.send(signal);
        else if (error.code === "busy") await this.#wait(Math.max(1, error.wait));
        else throw error;
      }
    }
  }

  /** @param {number} seconds */
  async #wait(seconds) {
    announce(t("ask.busy", { seconds }));
    for (let left = seconds; left > 0; left--) {
      this.reply.wait("ask.busy", { seconds: left });
      await new Promise((resolve) => setTimeout(resolve, 1000));
      this.stopping.signal.throwIfAborted();
    }
  }

  /** @param {Response} response */
  async #read(response) {
    let whole = false;
    for await (const { name, data } of events(response)) {
      if (name === "queued") this.#state(data.position ? "ask.queued" : "ask.next", { n: data.position });
      else if (name === "started") this.#state("ask.reading");
      else if (name === "text") this.#text(data);
      else if (name === "error") throw fromBody(data);
      else if (name === "done") (whole = true), this.#done(data);
    }
    if (!whole) throw new ApiError("offline"); // it ended without an end
  }

  /**
   * @param {string} key
   * @param {Record<string, number>} [values]
   */
  #state(key, values) {
    this.reply.wait(key, values);
    announce(t(key, values));
  }

  /** @param {{part: string, text: string}} piece */
  #text({ part, text }) {
    if (!this.exchange.pieces.length && text.trim()) this.reply.wait("ask.writing");
    this.exchange.push(part, text);
    this.reply.push(part, text);
    this.speaker.push(part, text);
  }

  /** @param {{text: string, answer: string | null, finish_reason: string, tokens: number, seconds: {total: number}, time: string, faults: string[]}} data */
  #done(data) {
    const { exchange } = this;
    Object.assign(exchange, { raw: data.text, state: data.finish_reason === "cancelled" ? "stopped" : "done", time: data.time, seconds: data.seconds.total });
    this.speaker.finish();
    this.reply.finish({ finish: data.finish_reason, seconds: exchange.seconds, tokens: data.tokens, faults: data.faults, answer: data.answer !== null });
    announce(t("ask.done", { seconds: exchange.seconds.toFixed(1) }));
  }

  #stopped() {
    const { exchange } = this;
    Object.assign(exchange, { raw: rawOf(exchange.pieces), state: "stopped", seconds: this.elapsed });
    this.reply.finish({ finish: "cancelled", seconds: this.elapsed, tokens: 0, faults: [], answer: false });
    announce(t("answer.stopped"));
  }

  /** @param {ApiError} error */
  #failed(error) {
    this.exchange.state = "failed";
    this.reply.fail(error);
    announce(`${t(`error.${error.code}`)} ${t(`error.${error.code}.advice`)}`);
  }
}
