// How the page of raters draws its rows.
function createRatersView({ $, t, formatNumber, language, createTime }) {
  const NONE = "—";
  const percentFormat = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 });
  const valueFormat = new Intl.NumberFormat(language, { maximumSignificantDigits: 2 });
  const secondsFormat = new Intl.NumberFormat(language, { style: "unit", unit: "second", unitDisplay: "narrow", maximumSignificantDigits: 3, maximumFractionDigits: 1, roundingPriority: "lessPrecision" });
  const FORMATS = { reliability: valueFormat, agreement: percentFormat, first: percentFormat, seconds: secondsFormat };
  const FIXED_AXES = { agreement: [0, 1], first: [0, 1] };
  const english = { lang: "en", dir: "ltr" };
  let axes = {}; // column → the ends of its axis
  let usual = {}; // column → the median of all raters
  const opened = new Set(); // the ids of raters whose findings are unfolded, also when rows are drawn anew

  function setPopulation(raters, medians) {
    usual = medians;
    axes = Object.fromEntries(
      Object.keys(FORMATS).map((name) => [name, chooseAxis(raters.map((rater) => rater[name]).filter(Boolean), FIXED_AXES[name])]),
    );
  }

  function createRaterRow(rater) {
    const name = createElement("button", { type: "button", className: "name-button", data: { action: "detail" } }, createElement("bdi", {}, rater.name));
    return createRow(
      rater.id,
      [name, createMarks(rater)],
      createCell(t("raters_findings"), "numeric", rater.findings.length ? formatNumber(rater.findings.length) : NONE),
      createCell(t("judged"), "numeric", formatNumber(rater.judgments)),
      ...Object.keys(FORMATS).map((column) => createCell(t(`raters_${column}`), "", createPlot(rater, column))),
      createCell(t("raters_golds"), "numeric", formatShare(rater.golds)),
      createCell(t("raters_repeats"), "numeric", formatShare(rater.repeats)),
      createCell("", "row-actions", ...(rater.mine ? createActions(rater) : [])),
      ...(rater.findings.length ? [createCell("", "why", createReasons(rater))] : []),
    );
  }
  function createMarks({ role, state, simulated, imported, judge }) {
    const marks = [];
    if (judge) marks.push(["judge", t("role_judge")]);
    else if (role !== "rater") marks.push(["", t(`role_${role}`)]);
    if (["paused", "disabled"].includes(state)) marks.push([state, t(`state_${state}`)]);
    if (simulated) marks.push(["simulated", t("state_simulated")]);
    if (imported) marks.push(["", t("raters_imported")]);
    return createElement("div", { className: "marks" }, ...marks.map(([name, text]) => createElement("span", { className: `state ${name}` }, text)));
  }
  // What was found, below a row and as wide: one line while it is folded, all of it else. Reasons come in English.
  function createReasons({ id, name, findings: [first, ...others] }) {
    const more = others.length ? [createElement("span", { className: "more" }, `+${formatNumber(others.length)}`)] : [];
    const whose = createElement("span", { className: "visually-hidden" }, `${t("raters_findings")}: ${name}. `);
    const details = createElement("details", { open: opened.has(id) }, createElement("summary", {}, whose, ...createReason(first), ...more));
    if (others.length) details.append(createElement("ul", {}, ...others.map((finding) => createElement("li", {}, ...createReason(finding)))));
    details.addEventListener("toggle", () => (details.open ? opened.add(id) : opened.delete(id)));
    return details;
  }
  const createReason = ({ action, reason }) => [
    createElement("span", { className: `finding ${action}` }, t(`raters_action_${action}`)),
    createElement("span", { className: "reason", ...english }, reason),
  ];
  function createPlot(rater, column) {
    const figure = rater[column];
    if (!figure) return createElement("span", { className: "soft" }, NONE);
    const format = FORMATS[column].format;
    const texts = { value: format(figure.value), low: format(figure.low), high: format(figure.high) };
    const common = usual[column] === null ? NONE : format(usual[column]);
    const label = t("raters_plot", { ...texts, name: rater.name, column: t(`raters_${column}`), usual: common });
    const interval = createElement("small", {}, ` ${formatRange(figure, column)}`);
    const value = createElement("span", { className: "value", attributes: { "aria-hidden": "true" } }, texts.value, interval);
    return createElement("div", { className: "plot" }, createDotPlot(figure, axes[column], usual[column], label), value);
  }
  // The interval, with its unit once.
  function formatRange({ low, high }, column) {
    const format = FORMATS[column];
    return format.formatRange ? format.formatRange(low, high) : `${format.format(low)}–${format.format(high)}`;
  }
  function formatShare(figure) {
    return figure ? t("raters_share", { share: percentFormat.format(figure.value), n: formatNumber(figure.count) }) : NONE;
  }
  function createActions(rater) {
    const actions = [];
    if (rater.findings.length) actions.push(createAction(rater, "overrule", t("raters_overrule")));
    if (!rater.imported) actions.push(createAction(rater, "pause", rater.paused ? t("resume") : t("pause")));
    return actions;
  }
  function createAction(rater, action, text) {
    const button = createElement("button", { type: "button", className: "outlined", data: { action } }, text);
    button.setAttribute("aria-label", `${text}: ${rater.name}`);
    return button;
  }

  function showNotes({ fitted_at: fittedAt, false_alarm_rate: rate }) {
    redraw($("fit-note"), ...(fittedAt ? [`${t("raters_fitted")} `, createTime(fittedAt)] : [t("raters_not_fitted"), " ", createElement("code", {}, "rlhf-hitl labels fit")]));
    const precise = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 });
    $("footnote").textContent = t("raters_footnote", { rate: precise.format(rate) });
  }
  const searchText = (rater) =>
    [rater.name, t(`role_${rater.role}`), t(`state_${rater.state}`), rater.imported && t("raters_imported"), ...rater.findings.map(({ reason }) => reason)].filter(Boolean).join("\n").toLowerCase();
  const describeRange = (start, end, total) =>
    end ? t("range", { first: formatNumber(start + 1), last: formatNumber(end), all: formatNumber(total) }) : t("nobody_found");

  return { createRow: createRaterRow, setPopulation, showNotes, searchText, describeRange, percentFormat, secondsFormat };
}
