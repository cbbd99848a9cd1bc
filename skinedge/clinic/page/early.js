// Before the first paint: the theme and the size of type that were chosen, so that a dark room stays dark.
(() => {
  const kept = (/** @type {string} */ name) => {
    try {
      return localStorage.getItem(`skinedge.${name}`);
    } catch {
      return null; // storage may be forbidden; the page works without
    }
  };
  const root = document.documentElement;
  const theme = kept("theme") ?? "system";
  root.dataset.theme = theme !== "system" ? theme : matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.size = kept("size") ?? "100";
})();
