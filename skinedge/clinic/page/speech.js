// What a screen reader says of its own accord: states at once, a model's text sentence by sentence.
import { $ } from "./dom.js";
import { t } from "./words.js";

const MOST = 12; // sentences kept in the log; who wants more reads the answer itself

/**
 * A state that changed.
 * @param {string} text
 */
export function announce(text) {
  const status = $("status");
  status.textContent = "";
  // An equal text would be no change, and so not be said.
  requestAnimationFrame(() => (status.textContent = text));
}

/** Takes a text as it comes and says whole sentences; a part is named when it begins. */
export class Speaker {
  #part = "";
  #held = "";

  /**
   * @param {string} part
   * @param {string} text
   */
  push(part, text) {
    if (part !== this.#part) {
      if (!text.trim()) return;
      this.finish();
      this.#part = part;
      this.#held = `${t(`part.${part}`)}. `;
    }
    this.#held += text;
    // The last mark that ends a sentence, once more has come after it.
    const end = this.#held.search(/[.!?。！？][\s\S](?![\s\S]*[.!?。！？][\s\S])/);
    if (end > this.#held.indexOf(". ") + 1) this.#say(end + 1);
  }

  finish() {
    this.#say(this.#held.length);
  }

  /** @param {number} end */
  #say(end) {
    const text = this.#held.slice(0, end).trim();
    this.#held = this.#held.slice(end);
    if (!text) return;
    const log = $("spoken");
    const line = document.createElement("p");
    line.textContent = text;
    log.append(line);
    while (log.children.length > MOST) log.firstElementChild.remove();
  }
}
