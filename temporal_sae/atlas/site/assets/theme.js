"use strict";
/* Light or dark as it was chosen last; it runs before anything is drawn. */
window.atlas = { views: {} };
(() => {
  const root = document.documentElement;
  const stored = (action) => {
    try {
      return action(window.localStorage);
    } catch {
      return null; // not every viewer of files gives a page storage
    }
  };
  const chosen = stored((storage) => storage.getItem("atlas-theme"));
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  atlas.switchTheme = () => {
    const prefersDark = window.matchMedia("(prefers-color-scheme: dark)").matches;
    const now = root.dataset.theme || (prefersDark ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    stored((storage) => storage.setItem("atlas-theme", root.dataset.theme));
  };
})();
