// Runs before the first paint, so that the theme does not flash. Three choices: automatic, light, dark.
(() => {
  const THEMES = ["automatic", "light", "dark"];
  const chosen = () => {
    try { return THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "automatic"; }
    catch { return "automatic"; }  // storage may be blocked
  };
  const show = (theme) => {
    if (theme === "automatic") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.title = `Theme: ${theme}`;
      button.setAttribute("aria-label", button.title);
    }
  };
  show(chosen());
  document.addEventListener("DOMContentLoaded", () => {
    show(chosen());
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.addEventListener("click", () => {
        const next = THEMES[(THEMES.indexOf(chosen()) + 1) % THEMES.length];
        try { localStorage.setItem("theme", next); } catch { /* lasts until the page closes */ }
        show(next);
        document.dispatchEvent(new CustomEvent("lathe:theme"));
      });
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new CustomEvent("lathe:theme")));
})();
