// A photograph of the visit: the file, how it was turned and cropped, and what the workstation says of it.
import { ApiError, call, forget } from "./api.js";

/** @typedef {{x: number, y: number, w: number, h: number}} Box parts of the turned picture, 0 to 1 */
/** @typedef {{turns: number, box: Box}} Edit quarter turns to the right, then what is kept */
/** @typedef {{code: string, value: number, limit: number}} Finding */

/** @type {Box} */
export const WHOLE = { x: 0, y: 0, w: 1, h: 1 };

/** What was sent: bytes that stay the same, so that a picture the workstation has forgotten can be sent again. */
export class Shot {
  /** @param {Blob} blob */
  constructor(blob) {
    this.blob = blob;
    this.url = URL.createObjectURL(blob);
    this.id = "";
    this.width = 0;
    this.height = 0;
    /** @type {Finding[]} */
    this.findings = [];
  }

  /** @param {AbortSignal} [signal] */
  async send(signal) {
    const response = await call("POST", "/api/pictures", this.blob, signal);
    Object.assign(this, await response.json());
  }

  /** Forget it, here and there. */
  async forget() {
    URL.revokeObjectURL(this.url);
    const { id } = this;
    this.id = "";
    if (!id) return;
    try {
      await forget(id);
    } catch {
      // it is forgotten with the session at the latest
    }
  }
}

/** A photograph in its place. */
export class Photo {
  /** @param {Blob} file */
  constructor(file) {
    this.file = file;
    /** @type {Edit} */
    this.edit = { turns: 0, box: WHOLE };
    this.date = "";
    /** @type {Shot | null} */
    this.shot = null;
    /** @type {ApiError | null} */
    this.error = null;
    this.busy = false;
    /** @type {AbortController | null} */
    this.sending = null;
  }

  /**
   * Send it as it is now edited; a sending that is under way is left.
   * @param {number} mostBytes of a file
   */
  async send(mostBytes) {
    this.sending?.abort();
    const sending = (this.sending = new AbortController());
    this.busy = true;
    this.error = null;
    try {
      const blob = isWhole(this.edit) ? this.file : await rendered(this.file, this.edit, mostBytes / 4);
      if (sending.signal.aborted) return;
      this.shot = new Shot(blob);
      await this.shot.send(sending.signal);
    } catch (error) {
      if (sending.signal.aborted) return;
      this.error = error instanceof ApiError ? error : new ApiError("unreadable_photograph");
    }
    this.busy = false;
  }

  get ready() {
    return !this.busy && !this.error && !!this.shot?.id;
  }
}

/** @param {Edit} edit */
export const isWhole = ({ turns, box }) => turns % 4 === 0 && box.x === 0 && box.y === 0 && box.w === 1 && box.h === 1;

/**
 * The box of a picture that is turned a quarter more.
 * @param {Edit} edit
 * @param {1 | -1} by to the right, to the left
 * @returns {Edit}
 */
export function turned({ turns, box }, by) {
  const { x, y, w, h } = box;
  const next = by > 0 ? { x: 1 - y - h, y: x, w: h, h: w } : { x: y, y: 1 - x - w, w: h, h: w };
  return { turns: (turns + by + 4) % 4, box: next };
}

/**
 * Draw a picture, turned.
 * @param {HTMLCanvasElement} canvas
 * @param {ImageBitmap} bitmap upright
 * @param {Edit} edit
 * @param {number} most pixels
 */
export function draw(canvas, bitmap, { turns, box }, most) {
  const lying = turns % 2 === 1;
  const [width, height] = lying ? [bitmap.height, bitmap.width] : [bitmap.width, bitmap.height];
  const scale = Math.min(1, Math.sqrt(most / (width * box.w * height * box.h)));
  canvas.width = Math.max(1, Math.round(width * box.w * scale));
  canvas.height = Math.max(1, Math.round(height * box.h * scale));
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.imageSmoothingQuality = "high";
  pen.scale(scale, scale);
  pen.translate(-width * box.x + width / 2, -height * box.y + height / 2);
  pen.rotate((turns * Math.PI) / 2);
  pen.drawImage(bitmap, -bitmap.width / 2, -bitmap.height / 2);
}

/**
 * @param {Blob} file
 * @param {Edit} edit
 * @param {number} most pixels: a PNG takes at most four bytes for each, so it stays below the limit of a file
 * @returns {Promise<Blob>} PNG
 */
async function rendered(file, edit, most) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const canvas = document.createElement("canvas");
  draw(canvas, bitmap, edit, most);
  bitmap.close();
  return png(canvas);
}

/**
 * @param {HTMLCanvasElement} canvas
 * @returns {Promise<Blob>}
 */
export function png(canvas) {
  return new Promise((resolve, reject) => canvas.toBlob((b) => (b ? resolve(b) : reject(new Error("no memory for a picture"))), "image/png"));
}
