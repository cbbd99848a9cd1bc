// The report: a file to keep, or the page on paper.
import { ApiError, call } from "./api.js";
import { open } from "./dialogs.js";
import { $ } from "./dom.js";
import { explained } from "./errors.js";
import { announce } from "./speech.js";
import { language, t } from "./words.js";

/** @typedef {import("./visit.js").Visit} Visit */

/** @param {Visit} visit */
export function start(visit) {
  const ask = () => {
    if ($("open-report").disabled) return;
    $("report-error").hidden = true;
    open("d-report");
    $("report-reference").focus();
  };
  $("open-report").addEventListener("click", ask);
  $("report-save").addEventListener("click", async () => {
    $("report-save").disabled = true;
    try {
      await save(visit);
      $("d-report").close();
      announce(t("report.saved"));
    } catch (error) {
      $("report-error").replaceChildren(...explained(error));
      $("report-error").hidden = false;
    }
    $("report-save").disabled = false;
  });
  $("report-print").addEventListener("click", () => {
    $("d-report").close();
    print();
  });
  addEventListener("beforeprint", () => head(visit));
  return ask;
}

/** What the printed page says of itself. @param {Visit} visit */
function head(visit) {
  const { model } = visit;
  $("print-reference").textContent = $("report-reference").value.trim() || t("report.title");
  $("print-facts").textContent = new Date().toLocaleString(t("language.tag"), { dateStyle: "long", timeStyle: "short" });
  $("print-model").textContent = model ? t("report.model", { name: model.name, target: model.target, scheme: model.scheme, digest: model.digest, version: model.skinedge }) : "";
}

/** @param {Visit} visit */
async function save(visit) {
  const answered = visit.exchanges.filter((e) => e.answered);
  const body = () => ({
    language,
    reference: $("report-reference").value.trim(),
    exchanges: answered.map((e) => ({ question: e.shown, pictures: e.shots.map((s) => s.id), raw: e.raw, time: e.time, seconds: e.seconds })),
  });
  let response;
  try {
    response = await call("POST", "/api/report", body());
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== "picture_gone") throw error;
    if (!answered.every((e) => visit.exchanges.includes(e))) throw error; // somebody else has logged in meanwhile
    for (const shot of answered.flatMap((e) => e.shots)) await shot.send();
    response = await call("POST", "/api/report", body());
  }
  const name = response.headers.get("Content-Disposition")?.match(/filename="?([^";]+)/)?.[1] ?? "report.html";
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
