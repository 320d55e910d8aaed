// Draws the plots of an HTML report: each .plot-grid holds what to draw in data-plots. The report follows the system's
// choice of light or dark, and is light on paper.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => document.body.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", follow);
  addEventListener("beforeprint", () => document.body.classList.remove("dark"));
  addEventListener("afterprint", follow);
  follow();
  const words = { table: "The figures as a table", interval: (low, high) => `${low} to ${high}` };
  for (const box of document.querySelectorAll("[data-plots]")) box.append(...JSON.parse(box.dataset.plots).map((plot) => createPlot(plot, words, "en")));
})();
