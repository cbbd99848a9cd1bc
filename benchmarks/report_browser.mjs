// Open a page in Chromium: screenshots, PDF, accessibility, every request that was made. Called by report_check.py.
// node report_browser.mjs PAGE OUT CHROMIUM   (playwright-core and axe-core from NODE_PATH's folder); prints one JSON object.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
const require = createRequire(process.env.NODE_PATH + "/");
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [page, out, executablePath] = process.argv.slice(2);
const address = pathToFileURL(page).href;
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const found = { requests: [], console: [], widths: {}, axe: {} };
for (const [name, viewport] of [["desktop", { width: 1280, height: 900 }], ["phone", { width: 390, height: 844 }]]) {
  // axe is put into the page by the debugger, which a policy of no scripts would refuse; a first visit obeys the policy.
  for (const bypassCSP of [false, true]) {
    const context = await browser.newContext({ viewport, bypassCSP });
    const tab = await context.newPage();
    tab.setDefaultTimeout(300_000); // a machine that is busy with something else
    tab.on("request", (r) => found.requests.push(r.url()));
    tab.on("console", (m) => found.console.push(m.text()));
    await tab.goto(address);
    if (bypassCSP) {
      await tab.evaluate(axe);
      const report = await tab.evaluate(() => axe.run(document, { resultTypes: ["violations", "incomplete"] }));
      const short = (r) => ({ id: r.id, impact: r.impact, nodes: r.nodes.map((n) => n.html.slice(0, 200)) });
      found.axe[name] = { passes: report.passes.length, violations: report.violations.map(short), incomplete: report.incomplete.map(short) };
      found.widths[name] = await tab.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    } else {
      await tab.screenshot({ path: `${out}/${name}.png`, fullPage: true });
      if (name === "desktop") await tab.pdf({ path: `${out}/page.pdf`, preferCSSPageSize: true, printBackground: false });
    }
    await context.close();
  }
}
found.requests = [...new Set(found.requests)].filter((url) => url !== address && !url.startsWith("data:"));
await browser.close();
console.log(JSON.stringify(found));
