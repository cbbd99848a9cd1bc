// The dialog that takes a photograph with this machine's camera; what it sees goes nowhere but onto the page.
import { choice, open } from "./dialogs.js";
import { $, el } from "./dom.js";
import { png } from "./picture.js";
import { announce } from "./speech.js";
import { say, t } from "./words.js";

/** @type {MediaStream | null} */
let stream = null;

/** @returns {Promise<Blob | null>} PNG; nothing where none was taken */
export async function photograph() {
  open("d-camera");
  live();
  void begin();
  const done = await choice("d-camera");
  end();
  return done === "use" ? png($("camera-still")) : null;
}

/** @param {string} [device] */
async function begin(device) {
  end();
  $("camera-error").hidden = true;
  $("camera-take").disabled = true;
  try {
    if (!navigator.mediaDevices) throw new DOMException("", "NotFoundError");
    const video = { width: { ideal: 4096 }, height: { ideal: 3072 }, ...(device ? { deviceId: { exact: device } } : { facingMode: "environment" }) };
    const got = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    if (!$("d-camera").open) return got.getTracks().forEach((track) => track.stop());
    stream = got;
    $("camera-video").srcObject = stream;
    await $("camera-video").play();
    $("camera-take").disabled = false;
    await devices();
  } catch (error) {
    const name = error instanceof DOMException ? error.name : "";
    if (name === "AbortError") return;
    const key = name === "NotAllowedError" ? "camera.denied" : name === "NotFoundError" || name === "OverconstrainedError" ? "camera.missing" : "camera.broken";
    say($("camera-error"), key);
    $("camera-error").hidden = false;
  }
}

async function devices() {
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((d) => d.kind === "videoinput");
  const now = stream?.getVideoTracks()[0]?.getSettings().deviceId;
  $("camera-which").hidden = cameras.length < 2;
  $("camera-devices").replaceChildren(...cameras.map((c, i) => el("option", { value: c.deviceId, selected: c.deviceId === now }, c.label || `${i + 1}`)));
}

function end() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  $("camera-video").srcObject = null;
}

/** Show what the camera sees. */
function live() {
  for (const id of ["camera-still", "camera-again", "camera-use"]) $(id).hidden = true;
  for (const id of ["camera-video", "camera-take"]) $(id).hidden = false;
}

function take() {
  const video = $("camera-video");
  const still = $("camera-still");
  [still.width, still.height] = [video.videoWidth, video.videoHeight];
  still.getContext("2d").drawImage(video, 0, 0);
  for (const id of ["camera-still", "camera-again", "camera-use"]) $(id).hidden = false;
  for (const id of ["camera-video", "camera-take"]) $(id).hidden = true;
  $("camera-use").focus();
  announce(t("camera.taken"));
}

export function start() {
  $("camera-take").addEventListener("click", take);
  $("camera-again").addEventListener("click", () => {
    live();
    $("camera-take").focus();
  });
  $("camera-use").addEventListener("click", () => $("d-camera").close("use"));
  $("camera-devices").addEventListener("change", () => void begin($("camera-devices").value));
}
