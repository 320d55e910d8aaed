// How the page of people draws what the server sent: the rows of the table, the totals, the chart, the other raters.
function createPeopleView({ $, t, formatNumber, language, createTime }) {
  const STATES = ["active", "paused", "disabled", "simulated"];
  const NONE = "—";
  const [secondsFormat, minutesFormat] = ["second", "minute"].map((unit) => new Intl.NumberFormat(language, { style: "unit", unit }));
  const dayFormat = new Intl.DateTimeFormat(language, { day: "numeric", month: "short", timeZone: "UTC" });

  // --- rows
  function createPersonRow(person) {
    const title = [createElement("bdi", {}, person.name)];
    if (person.me) title.push(createElement("span", { className: "you" }, t("you")));
    return createRow(
      person.id,
      title,
      createCell(t("role"), "", t(`role_${person.role}`)),
      createCell(t("state"), "", createState(person.state)),
      createCell(t("today"), "numeric", createToday(person)),
      createCell(t("in_all"), "numeric", formatNumber(person.all)),
      createCell(t("median_time"), "numeric", formatDuration(person.seconds)),
      createCell(t("last_seen"), "soft", person.seen ? createTime(person.seen) : t("never")),
      createCell(t("member_of"), "wrapping", person.projects.join(", ") || NONE),
      createCell(t("reads"), "wrapping", person.languages.join(", ") || t("any")),
      createCell("", "row-actions", ...(person.mine ? createActions(person) : [])),
    );
  }
  const createState = (state) => createElement("span", { className: `state ${state}` }, t(`state_${state}`));
  // What was judged today, with a meter where there is a quota.
  function createToday({ today, quota }) {
    if (!quota) return createElement("div", {}, formatNumber(today));
    const filled = createElement("i", { className: "filled" });
    filled.style.width = `${Math.min(100, (100 * today) / quota)}%`;
    const meter = createElement("div", { className: `meter${today >= quota ? " full" : ""}` }, filled);
    return createElement("div", {}, t("of_quota", { n: formatNumber(today), quota: formatNumber(quota) }), meter);
  }
  function createActions(person) {
    const toggleText = person.disabled ? t("enable") : person.paused ? t("resume") : t("pause");
    return [createAction(person, "toggle", toggleText), createAction(person, "edit", t("change"))];
  }
  function createAction(person, action, text) {
    const button = createElement("button", { type: "button", className: "outlined", data: { action } }, text);
    button.setAttribute("aria-label", `${text}: ${person.name}`);
    return button;
  }
  const formatDuration = (seconds) =>
    seconds === null ? NONE : seconds < 100 ? secondsFormat.format(Math.round(seconds * 10) / 10) : minutesFormat.format(Math.round(seconds / 6) / 10);

  // --- around the table
  function showTotals(everybody) {
    const sum = (key) => formatNumber(everybody.reduce((total, person) => total + person[key], 0));
    const states = STATES.map((state) => [everybody.filter((person) => person.state === state).length, state]);
    $("people-count").textContent = formatNumber(everybody.length);
    $("state-counts").textContent = states.filter(([count]) => count).map(([count, state]) => `${formatNumber(count)} ${t(`state_${state}`)}`).join(", ");
    $("judged-today").textContent = sum("today");
    $("active-today").textContent = t("by_some", { n: formatNumber(everybody.filter((person) => person.today).length) });
    $("judged-total").textContent = sum("all");
  }
  function showDailyChart(counts, today) {
    const days = counts.map((_, index) => dayFormat.format(Date.parse(today) - (counts.length - 1 - index) * 86_400_000));
    const highest = Math.max(1, ...counts);
    const width = 280 / counts.length;
    const bars = counts.map((count, index) => {
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const height = count ? Math.max(2, (46 * count) / highest) : 1;
      const shape = { x: index * width + 2, y: 48 - height, width: width - 4, height };
      for (const [key, value] of Object.entries(shape)) bar.setAttribute(key, value);
      return bar;
    });
    $("daily-chart-text").textContent = counts.map((count, index) => `${days[index]}: ${formatNumber(count)}`).join(", ");
    $("daily-chart").replaceChildren($("daily-chart-text"), ...bars);
    $("first-day").textContent = days[0];
  }
  function showOtherRaters({ simulated, imported }) {
    const items = [...simulated.map(describeSimulated), ...imported.map(describeImported)];
    redraw($("other-raters-list"), ...items.map((parts) => createElement("li", {}, ...parts.map((part) => createElement("span", {}, part)))));
    const importedCount = imported.reduce((total, source) => total + source.raters, 0);
    $("other-raters-count").textContent = [
      simulated.length && t("count_simulated", { n: formatNumber(simulated.length) }),
      importedCount && t("count_imported", { n: formatNumber(importedCount) }),
    ].filter(Boolean).join(", ");
    $("other-raters").hidden = items.length === 0;
  }
  const createBoldName = (name) => createElement("b", {}, createElement("bdi", {}, name));
  const describeJudged = (n) => t("count_judged", { n: formatNumber(n) });
  function describeSimulated(person) {
    const states = person.state === "simulated" ? ["simulated"] : ["simulated", person.state];
    return [createBoldName(person.name), ...states.map(createState), describeJudged(person.all), formatDuration(person.seconds)];
  }
  function describeImported({ source, raters, judged }) {
    return [createBoldName(source), t("count_imported_raters", { n: formatNumber(raters) }), describeJudged(judged)];
  }

  // --- texts
  const searchText = (person) =>
    [person.name, t(`role_${person.role}`), t(`state_${person.state}`), ...person.projects, ...person.languages].join("\n").toLowerCase();
  const describeRange = (start, end, total) =>
    end ? t("range", { first: formatNumber(start + 1), last: formatNumber(end), all: formatNumber(total) }) : t("nobody_found");
  const describeSaved = (person) => t("saved", { name: person.name, state: t(`state_${person.state}`) });

  return { createRow: createPersonRow, showTotals, showDailyChart, showOtherRaters, searchText, describeRange, describeSaved };
}
