// The plots of the lead's page, the ways through it, and what the tables beside them compare (groups.js). Plots are made
// anew only where their figures changed: what is being read does not move.
function createFiguresView(dashboard, createFigure, reload) {
  const { $, t, language } = dashboard;
  const groups = createGroupsView(dashboard);
  const drawn = new Map(); // box → what is drawn in it
  const words = { table: t("plot_table"), interval: (low, high) => t("plot_interval", { low, high }) };

  const request = () => ({ by: $("trends-by").value || "day", group_by: $("groups-by").value || "tag" });
  function showPlots({ others, simulated, trends, money, sentences, groups: rows, groups_left_out: leftOut, currency, changes }) {
    redraw($("figures-more"), ...others.map(createFigure));
    $("simulated-too").hidden = !simulated;
    drawPlots($("trend-plots"), trends);
    drawPlots($("money-plots"), money);
    redraw($("outlook-sentences"), ...sentences.map((sentence) => createElement("li", {}, sentence)));
    groups.showGroups(rows, leftOut, currency, $("groups-by").value);
    groups.showChanges(changes);
    for (const id of ["trends", "money", "groups", "comparing"]) $(id).hidden = false;
  }
  function drawPlots(box, plots) {
    const what = JSON.stringify(plots);
    if (drawn.get(box) === what) return;
    drawn.set(box, what);
    const open = new Set([...box.querySelectorAll("details[open]")].map((node) => node.closest("figure").dataset.key));
    box.replaceChildren(...plots.map((plot) => createPlot(plot, words, language)));
    for (const node of box.querySelectorAll("details")) node.open = open.has(node.closest("figure").dataset.key);
  }

  // --- two views, and one press to each part of the one that is shown; the address keeps which
  const VIEWS = {
    "": ["figures", "automation", "alerts", "queue", "people", "agreement", "bias", "lanes", "accepted"],
    trends: ["more", "threshold", "trends", "money", "groups", "changes", "outlook"],
  };
  const shownView = () => (readAddress().view in VIEWS ? readAddress().view : "");
  function showView() {
    const view = shownView();
    $("view-now").hidden = view !== "";
    $("view-trends").hidden = view !== "trends";
    for (const button of dashboard.element.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", button.dataset.view === view);
    redraw($("jumps"), ...VIEWS[view].map((part) => createElement("button", { type: "button", className: "quiet", data: { key: part } }, $(`${part}-title`).textContent)));
  }
  dashboard.element.querySelector(".views").addEventListener("click", (event) => {
    const view = event.target.closest("[data-view]")?.dataset.view;
    if (view === undefined || view === shownView()) return;
    replaceAddress({ ...readAddress(), view });
    showView();
    reload();
  });
  $("jumps").addEventListener("click", (event) => {
    const part = event.target.closest("button")?.dataset.key;
    if (!part) return;
    const title = $(`${part}-title`);
    title.tabIndex = -1;
    title.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    title.focus({ preventScroll: true });
  });
  showView();
  for (const id of ["trends-by", "groups-by"]) $(id).addEventListener("change", reload);
  return { request, showPlots, showView, isShown: () => shownView() === "trends" };
}
