// The threshold curve: a lead moves the marker and sees the load, the error and the cost that acceptance from there on
// would cause, and may apply it. It is stricter than the bound in force, or they allow more errors with a tick.
function createThresholdView({ $, t, language, formatNumber, checkAnswer, createTime }, server, reload) {
  const percent = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 });
  const number = new Intl.NumberFormat(language, { maximumSignificantDigits: 3 });
  const confidenceFormat = new Intl.NumberFormat(language, { minimumFractionDigits: 3, maximumFractionDigits: 3 });
  let curve = null, drawn = "", chosen = 0;

  function showCurve(answer) {
    const what = JSON.stringify({ ...answer, at: null });
    $("threshold").hidden = false;
    if (what === drawn) return;
    const isSame = curve?.project === answer.project && curve.points.length === answer.points.length;
    const held = isSame ? curve.points[chosen]?.confidence : null;
    drawn = what;
    curve = answer;
    $("threshold-none").hidden = curve.points.length > 0;
    $("threshold-body").hidden = !curve.points.length;
    $("threshold-project").textContent = curve.project ?? "";
    if (!curve.points.length) return;
    const wanted = held ?? curve.now ?? curve.points.at(-1).confidence;
    chosen = findNearest(wanted);
    drawPlot();
    showChosen();
    const { demand } = curve;
    $("threshold-clear").hidden = !demand;
    $("threshold-demand").replaceChildren(
      ...(demand ? [sayDemand(demand), " ", createTime(demand.at)] : []),
    );
    $("threshold-advice").textContent = curve.advice;
  }
  function sayDemand({ by, confidence, max_error }) {
    if (confidence === 0 && max_error !== null) return t("threshold_demanded_error", { name: by, bound: percent.format(max_error) });
    return t("threshold_demanded", { name: by, confidence: confidenceFormat.format(confidence) });
  }
  const findNearest = (wanted) => curve.points.reduce((best, point, n) => (Math.abs(point.confidence - wanted) < Math.abs(curve.points[best].confidence - wanted) ? n : best), 0);

  function drawPlot() {
    const words = { table: t("plot_table"), interval: (low, high) => t("plot_interval", { low, high }) };
    const marker = { start: chosen, onChoose: choose, say: (index) => sayPoint(curve.points[index]) };
    $("threshold-plot").replaceChildren(createPlot(curve.plot, words, language, marker));
  }
  function choose(index) {
    chosen = index;
    showChosen();
  }
  const sayShare = (share) => (share === null ? t("threshold_unshown") : percent.format(share));
  const sayPoint = ({ confidence, load, bound }) => `${confidenceFormat.format(confidence)}: ${t("threshold_load")} ${percent.format(load)}, ${t("threshold_bound")} ${sayShare(bound)}`;

  function showChosen() {
    const point = curve.points[chosen];
    const inForce = curve.points[findNearest(curve.now ?? 1)];
    const now = curve.now === null ? { ...inForce, accepted: 0, load: 1, error: null, bound: null, cost: curve.manual_cost } : inForce;
    const count = (share) => t("threshold_of", { n: formatNumber(Math.round(share * curve.pool)), all: formatNumber(curve.pool) });
    const interval = point.error === null ? "" : t("plot_interval", { low: percent.format(point.low), high: percent.format(point.high) });
    const cost = (amount) => (amount === null ? "—" : `${number.format(amount)} ${curve.currency}`);
    const rows = [
      ["confidence", confidenceFormat.format(point.confidence), curve.now === null ? "—" : confidenceFormat.format(curve.now), ""],
      ["accepted", percent.format(point.accepted), percent.format(now.accepted), count(point.accepted)],
      ["load", percent.format(point.load), percent.format(now.load), [count(point.load), curve.unlike ? t("threshold_unlike", { n: formatNumber(curve.unlike) }) : ""].filter(Boolean).join("; ")],
      ["error", point.error === null ? "—" : percent.format(point.error), now.error === null ? "—" : percent.format(now.error), [interval, t("threshold_on", { n: formatNumber(point.labels) })].filter(Boolean).join(" ")],
      ["bound", sayShare(point.bound), now.bound === null ? "—" : percent.format(now.bound), ""],
      ["cost", cost(point.cost), cost(now.cost), ""],
    ];
    redraw(
      $("threshold-readout"),
      ...rows.map(([word, value, before, more]) =>
        createElement(
          "div",
          { data: { key: word } },
          createElement("dt", {}, t(`threshold_${word}`)),
          createElement("dd", {}, createElement("b", {}, value), createElement("span", { className: "note" }, ` ${t("threshold_now")} ${before}`)),
          createElement("dd", { className: "note" }, more),
        ),
      ),
    );
    const isSupported = point.bound !== null;
    const needsMore = isSupported && point.bound > curve.max_error + 1e-9;
    const words = { bound: percent.format(point.bound ?? 1), now: percent.format(curve.max_error) };
    const allow = $("threshold-allow");
    allow.hidden = !needsMore || !curve.project;
    allow.querySelector("input").checked = false;
    allow.querySelector("span").textContent = t("threshold_allow", words);
    $("threshold-verdict").textContent = !curve.project ? t("threshold_choose") : !isSupported ? t("threshold_refused") : needsMore ? "" : t("threshold_stricter", words);
    updateApply();
  }
  const isAllowed = () => $("threshold-allow").hidden || $("threshold-allow").querySelector("input").checked;
  function updateApply() {
    const mayApply = curve?.project && curve.points[chosen].bound !== null && isAllowed();
    $("threshold-apply").setAttribute("aria-disabled", mayApply ? "false" : "true");
  }
  $("threshold-allow").addEventListener("change", updateApply);
  $("threshold-apply").addEventListener("click", async () => {
    if ($("threshold-apply").getAttribute("aria-disabled") === "true") return;
    const point = curve.points[chosen];
    const more = $("threshold-allow").hidden ? {} : { max_error: point.bound };
    await send(server.set_demand({ project: curve.project, confidence: point.confidence, seen: curve.seen, ...more }));
  });
  $("threshold-clear").addEventListener("click", () => send(server.end_demand({ project: curve.project })));
  async function send(call) {
    $("threshold-apply").setAttribute("aria-disabled", "true"); // a second press while it is sent would ask twice
    const answer = await call;
    const isDone = checkAnswer(answer);
    await reload();
    checkAnswer(answer);
    updateApply();
    if (!isDone) return;
    $("announce").textContent = t("threshold_applied");
    $("threshold-verdict").textContent = t("threshold_applied");
  }
  return { showCurve };
}
