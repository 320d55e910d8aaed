// How the page of people draws what the server sent: the rows of the table, the totals, the chart, the other raters.
function createPeopleView($) {
  const TEXTS = {
    states: { active: "active", paused: "paused", disabled: "disabled", simulated: "simulated" },
    roles: { rater: "rater", lead: "lead", evaluator: "evaluator", admin: "admin" },
    columns: { role: "Role", state: "State", today: "Today", all: "In all", seconds: "Median time", seen: "Last seen", projects: "Member of", languages: "Reads" },
    you: "you",
    anyLanguage: "any",
    none: "—",
    never: "never",
    pause: "Pause",
    resume: "Resume",
    change: "Change",
    enable: "Enable",
  };
  const numberFormat = new Intl.NumberFormat();
  const formatNumber = (value) => numberFormat.format(value);
  const dayFormat = new Intl.DateTimeFormat([], { day: "numeric", month: "short", timeZone: "UTC" });
  const agoFormat = new Intl.RelativeTimeFormat([], { numeric: "auto", style: "short" });

  // --- rows
  function createRow(person) {
    const name = createElement("th", { scope: "row" }, createElement("bdi", {}, person.name));
    name.setAttribute("role", "rowheader");
    if (person.me) name.append(createElement("span", { className: "you" }, TEXTS.you));
    const row = createElement(
      "tr",
      { data: { id: person.id } },
      name,
      createCell("role", "", TEXTS.roles[person.role] ?? person.role),
      createCell("state", "", createState(person.state)),
      createCell("today", "numeric", createToday(person)),
      createCell("all", "numeric", formatNumber(person.all)),
      createCell("seconds", "numeric", formatDuration(person.seconds)),
      createCell("seen", "soft", createSeen(person.seen)),
      createCell("projects", "wrapping", person.projects.join(", ") || TEXTS.none),
      createCell("languages", "wrapping", person.languages.join(", ") || TEXTS.anyLanguage),
      createCell("", "row-actions", ...(person.mine ? createActions(person) : [])),
    );
    row.setAttribute("role", "row");
    return row;
  }
  function createCell(column, className, ...children) {
    const cell = createElement("td", { className, data: { label: TEXTS.columns[column] ?? "" } }, ...children);
    cell.setAttribute("role", "cell");
    return cell;
  }
  const createState = (state) => createElement("span", { className: `state ${state}` }, TEXTS.states[state] ?? state);
  // What was judged today, with a meter where there is a quota.
  function createToday({ today, quota }) {
    if (!quota) return createElement("div", {}, formatNumber(today));
    const filled = createElement("i", { className: "filled" });
    filled.style.width = `${Math.min(100, (100 * today) / quota)}%`;
    const meter = createElement("div", { className: `meter${today >= quota ? " full" : ""}` }, filled);
    return createElement("div", {}, `${formatNumber(today)} of ${formatNumber(quota)}`, meter);
  }
  function createActions(person) {
    const toggleText = person.disabled ? TEXTS.enable : person.paused ? TEXTS.resume : TEXTS.pause;
    return [createAction(person, "toggle", toggleText), createAction(person, "edit", TEXTS.change)];
  }
  function createAction(person, action, text) {
    const button = createElement("button", { type: "button", className: "outlined", data: { action } }, text);
    button.setAttribute("aria-label", `${text}: ${person.name}`);
    return button;
  }
  function formatDuration(seconds) {
    if (seconds === null) return TEXTS.none;
    return seconds < 100 ? `${formatNumber(Math.round(seconds * 10) / 10)} s` : `${formatNumber(Math.round(seconds / 6) / 10)} min`;
  }
  function createSeen(iso) {
    if (!iso) return TEXTS.never;
    const minutes = (new Date(iso) - Date.now()) / 60_000; // negative
    const units = [["day", 1440], ["hour", 60], ["minute", 1]];
    const [unit, size] = units.find(([, length]) => -minutes >= length) ?? ["minute", 1];
    const text = agoFormat.format(Math.min(0, Math.ceil(minutes / size)), unit);
    return createElement("time", { dateTime: iso, title: new Date(iso).toLocaleString() }, text);
  }

  // --- around the table
  function showTotals(everybody) {
    const sum = (key) => formatNumber(everybody.reduce((total, person) => total + person[key], 0));
    const states = Object.keys(TEXTS.states).map((state) => [everybody.filter((person) => person.state === state).length, TEXTS.states[state]]);
    $("people-count").textContent = formatNumber(everybody.length);
    $("state-counts").textContent = states.filter(([count]) => count).map(([count, state]) => `${formatNumber(count)} ${state}`).join(", ");
    $("judged-today").textContent = sum("today");
    $("active-today").textContent = `by ${formatNumber(everybody.filter((person) => person.today).length)} of them`;
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
    $("other-raters-list").replaceChildren(...items.map((parts) => createElement("li", {}, ...parts.map((part) => createElement("span", {}, part)))));
    const importedCount = imported.reduce((total, source) => total + source.raters, 0);
    $("other-raters-count").textContent = [
      simulated.length && `${formatNumber(simulated.length)} simulated`,
      importedCount && `${formatNumber(importedCount)} imported`,
    ].filter(Boolean).join(", ");
    $("other-raters").hidden = items.length === 0;
  }
  const createBoldName = (name) => createElement("b", {}, createElement("bdi", {}, name));
  function describeSimulated(person) {
    const states = person.state === "simulated" ? ["simulated"] : ["simulated", person.state];
    return [createBoldName(person.name), ...states.map(createState), `judged: ${formatNumber(person.all)}`, formatDuration(person.seconds)];
  }
  function describeImported({ source, raters, judged }) {
    return [createBoldName(source), `imported raters: ${formatNumber(raters)}`, `judged: ${formatNumber(judged)}`];
  }

  // --- texts
  const searchText = (person) =>
    [person.name, TEXTS.roles[person.role], TEXTS.states[person.state], ...person.projects, ...person.languages].join("\n").toLowerCase();
  const describeRange = (start, end, total) =>
    end ? `${formatNumber(start + 1)}–${formatNumber(end)} of ${formatNumber(total)}` : "nobody found";
  const describeSaved = (person) => `${person.name}: saved, ${TEXTS.states[person.state]}.`;

  return { createRow, showTotals, showDailyChart, showOtherRaters, searchText, describeRange, describeSaved };
}
