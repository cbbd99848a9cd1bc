// "About this model": where it comes from, and how far it was shown to be its original.
import { open } from "./dialogs.js";
import { $, alertBox, el } from "./dom.js";
import { t, told } from "./words.js";

/** @typedef {import("./visit.js").Model} Model */

/** @param {Model | null} model */
export function about(model) {
  open("d-about");
  $("about-body").replaceChildren(...(model ? [...facts(model), ...certificate(model), ...lineage(model)] : [el("p", { t: "about.unknown" })]));
}

/** @param {Model} m */
function facts(m) {
  const rows = /** @type {[string, Node | string][]} */ ([
    ["about.model", m.name],
    ["about.format", t("about.format.is", { target: m.target, scheme: m.scheme, bits: Number(m.bits).toFixed(2) })],
    ["about.digest", el("code", {}, m.digest)],
    ["about.licence", m.licence],
    ["about.program", `skinedge ${m.skinedge}`],
  ]);
  return [el("p", { t: "notice" }), el("dl", { class: "list" }, ...rows.flatMap(([key, value]) => [el("dt", { t: key }), el("dd", {}, value)]))];
}

/** @param {Model} m */
function certificate(m) {
  const c = m.certificate;
  const head = el("h3", { t: "about.certificate" });
  if (!c) return [head, alertBox("", el("span", { t: "reliability.no_certificate" }))];
  const skins = Object.entries(c.by_skin);
  const verdict = { pass: "pass", fail: "fail" }[c.verdict] ?? "unsure";
  return [
    head,
    el("p", {}, el("span", { class: `verdict ${verdict}`, t: `verdict.${verdict}` })),
    sentence("p", c.reliability),
    el("p", { class: "soft", t: c.synthetic ? "about.data.drawn" : "about.data", values: { n: c.n, data: c.data } }),
    el(
      "table",
      { class: "figures" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col", t: "about.skin" }), el("th", { scope: "col", t: "about.cases" }))),
      el("tbody", {}, ...skins.map(([group, n]) => el("tr", {}, group === "unknown" ? el("th", { scope: "row", t: "about.skin.unknown" }) : el("th", { scope: "row" }, group.replace("-", "–")), el("td", {}, String(n))))),
    ),
    el("h3", { t: "about.limits" }),
    el("ul", { class: "limits" }, ...c.limits.map((limit) => sentence("li", limit))),
    el("p", {}, el("a", { href: "/api/certificate", target: "_blank", rel: "noopener", t: "about.whole" })),
  ];
}

/**
 * @param {string} tag
 * @param {Record<string, string>} said by language
 */
function sentence(tag, said) {
  const { text, lang } = told(said);
  return el(tag, { lang }, text);
}

/** @param {Model} m */
function lineage(m) {
  const steps = m.lineage.map((s) => el("li", {}, `${s.kind} `, el("code", {}, s.digest), s.note && el("span", { class: "soft", lang: "en" }, s.note)));
  return [el("h3", { t: "about.lineage" }), el("ol", { class: "lineage" }, ...steps)];
}
