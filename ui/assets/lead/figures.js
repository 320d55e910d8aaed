// The plots of the lead's page, the ways through it, and what the tables beside them compare (groups.js). Plots are made
// anew only where their figures changed: what is being read does not move.
function createFiguresView(dashboard, reload) {
  const { $, t, language } = dashboard;
  const groups = createGroupsView(dashboard);
  const drawn = new Map(); // box → what is drawn in it
  const words = { table: t("plot_table"), interval: (low, high) => t("plot_interval", { low, high }) };

  const request = () => ({ by: $("trends-by").value || "day", group_by: $("groups-by").value || "tag" });
  function showPlots({ trends, money, sentences, groups: rows, groups_left_out: leftOut, currency, changes }) {
    drawPlots($("trend-plots"), trends);
    drawPlots($("money-plots"), money);
    redraw($("outlook-sentences"), ...sentences.map((sentence) => createElement("li", {}, sentence)));
    groups.showGroups(rows, leftOut, currency, $("groups-by").value);
    groups.showChanges(changes);
    for (const id of ["trends", "money", "groups", "comparing"]) $(id).hidden = false;
    showJumps();
  }
  function drawPlots(box, plots) {
    const what = JSON.stringify(plots);
    if (drawn.get(box) === what) return;
    drawn.set(box, what);
    const open = new Set([...box.querySelectorAll("details[open]")].map((node) => node.closest("figure").dataset.key));
    box.replaceChildren(...plots.map((plot) => createPlot(plot, words, language)));
    for (const node of box.querySelectorAll("details")) node.open = open.has(node.closest("figure").dataset.key);
  }

  // --- one press leads to each part of the page
  function showJumps() {
    if (!$("jumps").hidden) return;
    const parts = ["figures", "automation", "alerts", "threshold", "trends", "money", "groups", "changes", "outlook", "queue", "agreement", "accepted"];
    for (const part of parts) {
      const button = createElement("button", { type: "button", className: "quiet", data: { jump: part } }, $(`${part}-title`).textContent);
      button.addEventListener("click", () => {
        const title = $(`${part}-title`);
        title.tabIndex = -1;
        title.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
        title.focus({ preventScroll: true });
      });
      $("jumps").append(button);
    }
    $("jumps").setAttribute("aria-label", t("jump"));
    $("jumps").hidden = false;
  }
  for (const id of ["trends-by", "groups-by"]) $(id).addEventListener("change", reload);
  return { request, showPlots };
}
