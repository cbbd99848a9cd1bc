// The page of the workstation: put the parts together. Read visit.js next.
import { about } from "./about.js";
import { begin, call, leave, listen } from "./api.js";
import * as camera from "./camera.js";
import * as dialogs from "./dialogs.js";
import { $ } from "./dom.js";
import * as edit from "./edit.js";
import * as keys from "./keys.js";
import * as login from "./login.js";
import * as report from "./report.js";
import * as selftest from "./selftest.js";
import * as settings from "./settings.js";
import * as status from "./status.js";
import { Visit } from "./visit.js";
import { load } from "./words.js";

/** @type {string | null} */
let operator = null;

/**
 * Who is there now. A visit whose operator's session has ended is hidden until they are back; somebody else never sees it.
 * @param {import("./api.js").Session} session
 */
function who(session) {
  const { login: state } = session;
  if (state === "done" && operator && operator !== session.operator) void visit.clear();
  if (state === "done") operator = session.operator;
  $("main").classList.toggle("covered", state === "needed" && operator !== null && !visit.empty);
  $("logout").hidden = session.login !== "done";
  $("operator").textContent = session.operator ?? "";
  $("open-login").hidden = session.login !== "needed";
}

await load(settings.setting("language"));
const visit = new Visit();
settings.start();
for (const part of [dialogs, camera, edit, login, selftest]) part.start();
keys.start(visit, report.start(visit));

const tell = () => about(visit.model);
for (const id of ["open-about", "state"]) $(id).addEventListener("click", tell);
$("open-display").addEventListener("click", () => dialogs.open("d-display"));
$("open-selftest").addEventListener("click", () => {
  $("d-about").close();
  dialogs.open("d-selftest");
});
$("open-help").addEventListener("click", () => dialogs.open("d-help"));
$("open-login").addEventListener("click", () => void login.logIn().then((done) => (done ? connect() : undefined)));
$("language").addEventListener("click", () => void settings.choose("language", settings.setting("language") === "en" ? "zh" : "en"));
$("logout").addEventListener("click", async () => {
  await visit.renew();
  if (visit.empty) await leave().then(() => (operator = null));
});
new MutationObserver(() => visit.translate()).observe(document.documentElement, { attributeFilter: ["lang"] });

/** Learn what is served; also after the workstation was away. */
async function connect() {
  try {
    await begin();
    visit.model = await (await call("GET", "/api/model")).json();
  } catch {
    // the bar says that it is away, or that somebody must log in
  }
  visit.translate();
}

const started = () => (document.documentElement.dataset.started = "yes");
listen(who, () => {
  started(); // who must log in first may read the page meanwhile
  return login.logIn();
});
visit.desk.show();
status.start(() => void connect());
await connect();
started();
