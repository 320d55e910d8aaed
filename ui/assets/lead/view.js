// How the lead's page draws the figures, the queue and the people.
function createLeadView({ $, t, formatNumber, language, createTime }) {
  const percentFormat = new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
  const valueFormat = new Intl.NumberFormat(language, { maximumSignificantDigits: 3 });
  const NONE = "—";

  // --- the five figures, whose titles and notes come in English
  function showFigures({ figures, simulated }) {
    redraw($("figures"), ...figures.map(createFigure));
    $("simulated").hidden = !simulated;
    $("figures-section").hidden = false;
  }
  function createFigure({ key, title, unit, value, low, high, note }) {
    const isShare = unit === "share";
    const text = value === null ? NONE : isShare ? percentFormat.format(value) : `${valueFormat.format(value)} ${unit}`;
    const say = (end) => (isShare ? percentFormat.format(end) : `${valueFormat.format(end)} ${unit}`);
    const interval = low !== null && high !== null && value !== null;
    const english = { lang: "en", dir: "ltr" };
    return createElement(
      "div",
      { className: value === null ? "figure unknown" : "figure", data: { key } },
      createElement("dt", english, title),
      createElement("dd", { className: "value" }, createElement("bdi", {}, text)),
      createElement("dd", { className: "note" }, interval ? t("figure_interval", { low: say(low), high: say(high) }) : ""),
      createElement("dd", { className: "note", ...english }, note),
    );
  }

  // --- the queue: in all, and lane by lane
  function showQueue({ totals, lanes, lanes_left_out: leftOut }) {
    const all = totals.open + totals.held + totals.done;
    const counts = { done: formatNumber(totals.done), held: formatNumber(totals.held), open: formatNumber(totals.open) };
    const meter = createElement("div", { className: "meter", attributes: { role: "img", "aria-label": t("queue_meter", counts) } });
    for (const name of ["done", "held", "open"]) {
      const part = createElement("i", { className: name });
      part.style.flexGrow = totals[name];
      meter.append(part);
    }
    const legend = createElement(
      "dl",
      { className: "legend" },
      createCount("done", totals.done, t("queue_done_how")),
      createCount("held", totals.held, t("queue_held_how")),
      createCount("open", totals.open, [t("queue_open_how"), totals.open_paused && t("queue_paused", { n: formatNumber(totals.open_paused) })].filter(Boolean).join("; ")),
    );
    redraw($("queue"), createElement("p", { className: "total" }, t("queue_total", { done: counts.done, all: formatNumber(all) })), meter, legend);
    redraw($("lane-rows"), ...lanes.map(createLane));
    $("lanes-note").textContent = leftOut ? t("lanes_left_out", { n: formatNumber(leftOut) }) : "";
    $("work").hidden = $("lanes-section").hidden = false;
  }
  function createCount(name, count, how) {
    const term = createElement("dt", {}, createElement("i", { className: name }), t(`queue_${name}`), createElement("span", { className: "note" }, how));
    return createElement("div", {}, term, createElement("dd", {}, formatNumber(count)));
  }
  function createLane({ project, language: tag, batch, paused, members_only: membersOnly, overlap_rule: rule, open, held, done, accepted }) {
    const title = [createElement("bdi", {}, project)];
    if (paused) title.push(" ", createElement("span", { className: "state paused" }, t("state_paused")));
    if (membersOnly) title.push(" ", createElement("span", { className: "state" }, t("members_only")));
    if (rule) title.push(" ", createElement("span", { className: "state" }, t("lane_adaptive", { least: formatNumber(rule.least), most: formatNumber(rule.most) })));
    const isEmpty = tag === null; // a project into which nothing was imported yet, or only what came with its votes
    const cells = [[t("queue_open"), open], [t("queue_held"), held], [t("queue_done"), done], [t("lane_accepted"), accepted]];
    return createRow(
      JSON.stringify([project, tag, batch]),
      title,
      createCell(t("lane_language"), "", isEmpty ? createElement("span", { className: "soft" }, t("lane_empty")) : createElement("bdi", {}, tag || t("language_unknown"))),
      createCell(t("lane_batch"), "wrapping", createElement("bdi", {}, batch || NONE)),
      ...cells.map(([label, count]) => createCell(label, "numeric", formatNumber(count))),
    );
  }

  // --- people
  function showPeople({ people, people_count: count, imported }) {
    redraw($("people-rows"), ...people.map(createPerson));
    const notes = [
      people.length < count && t("people_cut", { shown: formatNumber(people.length), n: formatNumber(count) }),
      imported && t("judgments_imported", { n: formatNumber(imported) }),
    ];
    $("people-note").textContent = notes.filter(Boolean).join(" ");
  }
  function createPerson({ id, name, role, state, judged, last }) {
    return createElement(
      "tr",
      { data: { key: id } },
      createElement("th", { scope: "row" }, createElement("bdi", {}, name)),
      createElement("td", {}, t(`role_${role}`)),
      createElement("td", {}, createElement("span", { className: `state ${state}` }, t(`state_${state}`))),
      createElement("td", { className: "numeric" }, formatNumber(judged)),
      createElement("td", { className: "soft" }, last ? createTime(last) : t("never")),
    );
  }

  return { createFigure, showFigures, showQueue, showPeople };
}
