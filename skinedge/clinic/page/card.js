// A photograph as the page shows it: picture, tools, what was noticed of it.
import { alertBox, button, el, icon } from "./dom.js";
import { explained } from "./errors.js";
import { say } from "./words.js";

/** @typedef {import("./picture.js").Photo} Photo */
/** @typedef {{crop: () => void, turn: (by: 1 | -1) => void, remove: () => void, view: () => void, again: () => void, dated: () => void}} Actions */

export class Card {
  /**
   * @param {Photo} photo
   * @param {Actions} actions
   */
  constructor(photo, actions) {
    this.photo = photo;
    this.actions = actions;
    this.title = el("h3", { hidden: true });
    this.view = el("button", { type: "button", class: "open" });
    this.view.addEventListener("click", actions.view);
    say(this.view, "photo.enlarge", {}, "aria-label");
    this.edits = [
      button("crop", "edit.crop", actions.crop),
      button("left", "edit.left", () => actions.turn(-1), { bare: true }),
      button("right", "edit.right", () => actions.turn(1), { bare: true }),
    ];
    const id = `date-${crypto.randomUUID()}`;
    this.date = el("input", { type: "date", id, value: photo.date });
    this.date.addEventListener("change", () => {
      photo.date = this.date.value;
      actions.dated();
    });
    this.dated = el("div", { class: "date", hidden: true }, el("label", { for: id, t: "photo.date" }), this.date);
    this.seen = el("div", { class: "seen" });
    const tools = el("div", { class: "actions", role: "group" }, ...this.edits, button("remove", "photo.remove", actions.remove, { class: "quiet remove" }));
    say(tools, "photo.tools", {}, "aria-label");
    this.node = el("li", { class: "photo" }, this.title, this.view, tools, this.dated, this.seen);
  }

  /** @param {"" | "earlier" | "later" | "first" | "second"} place in a comparison */
  update(place) {
    const { photo } = this;
    this.title.hidden = this.dated.hidden = !place;
    if (place) say(this.title, `photo.${place}`);
    this.#picture();
    this.node.classList.toggle("warned", !!photo.error || !!photo.shot?.findings.length);
    this.seen.setAttribute("aria-busy", String(photo.busy));
    this.seen.replaceChildren(...this.#seen());
  }

  #picture() {
    const url = this.photo.shot?.url;
    const shown = this.view.querySelector("img");
    if (!url || shown?.src === url) return;
    const image = el("img", { src: url });
    say(image, "photo.alt", {}, "alt");
    image.addEventListener("error", () => {
      // A TIFF, say: the workstation reads it, a browser does not.
      image.replaceWith(el("p", { t: "photo.unseen" }));
      for (const edit of this.edits) edit.hidden = true;
    });
    this.view.replaceChildren(image);
  }

  #seen() {
    const { photo } = this;
    if (photo.busy) return [el("p", { class: "working" }, el("span", { class: "spin", "aria-hidden": "true" }), el("span", { t: "photo.looking" }))];
    if (photo.error) {
      const again = photo.error.code === "offline" ? button("again", "error.again", this.actions.again, { class: "" }) : null;
      return [alertBox("bad", ...explained(photo.error), el("div", { class: "row" }, again))];
    }
    const { width, height, findings } = /** @type {import("./picture.js").Shot} */ (photo.shot);
    const size = el("p", { class: "soft size", t: "photo.size", values: { width, height } });
    if (!findings.length) return [el("p", { class: "fine" }, icon("check"), el("span", { t: "photo.fine" })), size];
    const advice = findings.map((f) => el("p", {}, el("strong", { t: `finding.${f.code}` }), el("span", { t: `finding.${f.code}.advice` })));
    return [alertBox("", ...advice), size];
  }
}
