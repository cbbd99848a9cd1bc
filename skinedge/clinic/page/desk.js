// The photographs on the desk: one, or two to compare. Adding, editing, replacing, dating them.
import { Card } from "./card.js";
import { photograph } from "./camera.js";
import { inOrder } from "./conversation.js";
import { choice } from "./dialogs.js";
import { $ } from "./dom.js";
import { editPhoto } from "./edit.js";
import { Photo, turned } from "./picture.js";
import { announce } from "./speech.js";
import { say, t } from "./words.js";

export class Desk {
  /** @param {{changed: () => void, renew: () => Promise<void>, mostBytes: () => number, used: (shot: any) => boolean}} visit */
  constructor(visit) {
    this.visit = visit;
    /** @type {Card[]} */
    this.cards = [];
    this.comparing = false;
    this.#listen();
  }

  get photos() {
    return inOrder(this.cards.map((c) => c.photo));
  }

  get ready() {
    return this.cards.length > 0 && this.cards.every((c) => c.photo.ready) && !(this.comparing && this.cards.length < 2);
  }

  get warned() {
    return this.photos.some((p) => p.ready && (p.shot?.findings.length ?? 0) > 0);
  }

  get shots() {
    return this.photos.map((p) => /** @type {import("./picture.js").Shot} */ (p.shot));
  }

  /** Clear it. */
  clear() {
    for (const { photo } of this.cards) {
      photo.sending?.abort();
      this.#forget(photo);
    }
    this.cards = [];
    this.comparing = false;
    this.show();
  }

  /** @param {Blob[]} files the first one or two are taken */
  async add(files) {
    for (const file of files.slice(0, 2)) {
      if (this.cards.length && !(this.comparing && this.cards.length < 2) && !(await this.#placed(files.length > 1))) return;
      this.#put(file);
    }
  }

  /** Make room for one more photograph: where shall it go?  @param {boolean} several */
  async #placed(several) {
    if (several && this.cards.length === 1) return (this.comparing = true);
    $("place-compare").hidden = this.cards.length > 1;
    const where = await choice("d-place");
    if (where === "compare") this.comparing = true;
    else if (where === "replace") this.#take(/** @type {Card} */ (this.cards.at(-1)));
    else if (where === "new") await this.visit.renew();
    return where !== "";
  }

  /** @param {Blob} file */
  #put(file) {
    const photo = new Photo(file);
    /** @type {Card} */
    const card = new Card(photo, {
      crop: () => void this.#crop(card),
      turn: (by) => void this.#edit(card, turned(photo.edit, by)),
      remove: () => this.#remove(card),
      view: () => view(photo),
      again: () => void this.#send(card),
      dated: () => this.show(),
    });
    this.cards.push(card);
    void this.#send(card);
  }

  /** @param {Card} card */
  async #send(card) {
    const { photo } = card;
    const sent = photo.send(this.visit.mostBytes());
    this.show();
    announce(t("photo.looking"));
    await sent;
    if (photo.busy || !this.cards.includes(card)) return; // edited once more, or taken away
    this.show();
    const findings = photo.shot?.findings ?? [];
    const words = photo.error ? [`error.${photo.error.code}`, `error.${photo.error.code}.advice`] : findings.flatMap((f) => [`finding.${f.code}`, `finding.${f.code}.advice`]);
    announce(words.length ? words.map((key) => t(key)).join(" ") : t("photo.fine"));
  }

  /** @param {Card} card */
  async #crop(card) {
    const edit = await editPhoto(card.photo.file, card.photo.edit);
    if (edit) await this.#edit(card, edit);
  }

  /**
   * @param {Card} card
   * @param {import("./picture.js").Edit} edit
   */
  async #edit(card, edit) {
    this.#forget(card.photo);
    card.photo.edit = edit;
    await this.#send(card);
  }

  /** @param {Card} card */
  #take(card) {
    this.#forget(card.photo);
    card.photo.sending?.abort();
    this.cards = this.cards.filter((c) => c !== card);
  }

  /** @param {Card} card */
  #remove(card) {
    this.#take(card);
    this.comparing = this.comparing && this.cards.length > 0;
    this.show();
    announce(t("photo.removed"));
    $("choose").focus();
  }

  /** @param {Photo} photo */
  #forget(photo) {
    if (photo.shot && !this.visit.used(photo.shot)) void photo.shot.forget();
  }

  show() {
    const { cards, comparing } = this;
    const order = this.photos;
    /** @type {("earlier" | "later" | "first" | "second")[]} */
    const names = order.every((p) => p.date) ? ["earlier", "later"] : ["first", "second"];
    for (const card of cards) card.update(comparing ? names[order.indexOf(card.photo)] : "");
    const list = $("slots");
    const nodes = order.map((p) => /** @type {Card} */ (cards.find((c) => c.photo === p)).node);
    if (nodes.some((n, i) => list.children[i] !== n) || list.children.length !== nodes.length) list.replaceChildren(...nodes);
    list.classList.toggle("pair", cards.length > 1);
    const wanted = cards.length === 0 || (comparing && cards.length < 2);
    $("drop").hidden = !wanted;
    $("drop").classList.toggle("slim", cards.length > 0);
    say($("drop-lead"), cards.length ? "drop.second" : "drop.lead");
    say($("photos-title"), comparing ? "photos.compare" : "photos.title");
    $("more").hidden = cards.length === 0;
    $("compare").hidden = comparing;
    $("compare-cancel").hidden = !comparing || cards.length > 1;
    this.visit.changed();
  }

  #listen() {
    $("choose").addEventListener("click", () => $("file").click());
    $("file").addEventListener("change", () => {
      const files = [...$("file").files];
      $("file").value = "";
      void this.add(files);
    });
    $("open-camera").addEventListener("click", async () => {
      const blob = await photograph();
      if (blob) await this.add([blob]);
    });
    $("compare").addEventListener("click", () => {
      this.comparing = true;
      this.show();
      $("choose").focus();
    });
    $("compare-cancel").addEventListener("click", () => {
      this.comparing = false;
      this.show();
      $("compare").focus();
    });
    document.addEventListener("paste", (e) => {
      const files = [...(e.clipboardData?.files ?? [])];
      if (!files.length || document.querySelector("dialog[open]")) return;
      e.preventDefault();
      void this.add(files);
    });
    this.#dropping();
  }

  #dropping() {
    const carries = (/** @type {DragEvent} */ e) => e.dataTransfer?.types.includes("Files") && !document.querySelector("dialog[open]");
    const over = (/** @type {boolean} */ is) => ($("overlay").hidden = !is);
    document.addEventListener("dragover", (e) => {
      e.preventDefault(); // a file that is let go beside the page must not be opened in its place
      if (carries(e)) over(true);
    });
    document.addEventListener("dragleave", (e) => {
      if (!e.relatedTarget) over(false);
    });
    document.addEventListener("drop", (e) => {
      e.preventDefault();
      over(false);
      if (carries(e)) void this.add([...(e.dataTransfer?.files ?? [])]);
    });
  }
}

/** @param {Photo} photo */
function view(photo) {
  if (!photo.shot) return;
  const image = $("view-image");
  image.src = photo.shot.url;
  say(image, "photo.alt", {}, "alt");
  void choice("d-view").then(() => image.removeAttribute("src"));
}
