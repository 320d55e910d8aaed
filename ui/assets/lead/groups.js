// The figures of tags, projects or raters beside each other, sorted by a press on a column; and the newest day beside the
// one before it.
function createGroupsView({ $, t, formatNumber, language }) {
  const NONE = "—";
  const percent = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 });
  const value = new Intl.NumberFormat(language, { maximumSignificantDigits: 3 });
  const day = new Intl.DateTimeFormat(language, { day: "numeric", month: "short", timeZone: "UTC" });
  let shown = { rows: [], currency: "" };
  let sorting = { key: null, isAscending: true };
  let kind = "tag";

  const FIND = {
    name: ({ name }) => name,
    done: ({ done }) => done,
    judgments: ({ judgments }) => judgments,
    accuracy: ({ accuracy }) => accuracy?.value,
    people: ({ people }) => people?.value,
    same: ({ same }) => same?.value,
    newest: ({ newest }) => newest?.value,
    seconds: ({ seconds }) => seconds,
    cost: ({ cost }) => cost,
  };
  const columns = () => (kind === "rater" ? ["name", "done", "judgments", "same", "newest", "seconds", "cost"] : ["name", "done", "accuracy", "people", "same", "seconds", "cost"]);
  const worst = () => ({ key: kind === "rater" ? "newest" : "accuracy", isAscending: true });

  function showGroups(rows, leftOut, currency, by) {
    if (kind !== by || !sorting.key) {
      kind = by;
      sorting = worst();
    }
    shown = { rows, currency };
    $("groups-none").hidden = rows.length > 0;
    $("groups-table").hidden = !rows.length;
    $("groups-note").textContent = leftOut ? t("groups_left_out", { n: formatNumber(leftOut) }) : "";
    drawGroups();
  }
  function drawGroups() {
    const heads = columns().map((key) => {
      const button = createElement("button", { type: "button", data: { sort: key } }, t(`group_${key}`));
      const cell = createElement("th", { scope: "col", className: key === "name" ? "" : "numeric", attributes: { role: "columnheader" } }, button);
      if (sorting.key === key) cell.setAttribute("aria-sort", sorting.isAscending ? "ascending" : "descending");
      return cell;
    });
    redraw($("groups-head"), createElement("tr", { attributes: { role: "row" } }, ...heads));
    const find = FIND[sorting.key];
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, language) : a - b);
    const rows = [...shown.rows].sort((a, b) => {
      const [x, y] = [find(a), find(b)];
      if (x === undefined || x === null) return y === undefined || y === null ? 0 : 1; // what is not known comes last
      if (y === undefined || y === null) return -1;
      return sorting.isAscending ? compare(x, y) : compare(y, x);
    });
    redraw($("group-rows"), ...rows.map(createGroup));
  }
  function createGroup(row) {
    const name = [createElement("bdi", {}, row.name)];
    if (row.is_slipping) name.push(" ", createElement("span", { className: "state paused" }, t("group_slipping")));
    const cells = columns().slice(1).map((key) => createCell(t(`group_${key}`), "numeric", createElement("span", {}, ...createFigure(key, row))));
    return createRow(row.name, name, ...cells);
  }
  function createFigure(key, row) {
    const found = row[key];
    if (found === null || found === undefined) return [createElement("span", { className: "soft" }, NONE)];
    if (key === "seconds") return [value.format(found), " ", createElement("span", { className: "soft" }, `(${value.format(row.p95)})`)];
    if (key === "cost") return [`${value.format(found)} ${shown.currency}`];
    if (typeof found === "number") return [formatNumber(found)];
    const ends = t("plot_interval", { low: percent.format(found.low), high: percent.format(found.high) });
    return [percent.format(found.value), " ", createElement("span", { className: "soft" }, `(${ends})`)];
  }
  $("groups-head").addEventListener("click", (event) => {
    const key = event.target.closest("[data-sort]")?.dataset.sort;
    if (!key) return;
    sorting = { key, isAscending: sorting.key === key ? !sorting.isAscending : key !== "done" && key !== "judgments" };
    drawGroups();
  });

  function showChanges(changes) {
    $("changes-none").hidden = changes !== null;
    $("changes-table").hidden = changes === null;
    if (!changes) return;
    const say = (amount, unit) => (amount === null ? NONE : unit === "share" ? percent.format(amount) : `${value.format(amount)} ${unit}`.trim());
    const heads = [t("changes_figure"), ...[changes.before, changes.now].map((at) => day.format(new Date(`${at}T00:00Z`)))];
    redraw($("changes-head"), createElement("tr", {}, ...heads.map((text, n) => createElement("th", { scope: "col", className: n ? "numeric" : "" }, text))));
    const rows = changes.rows.map(({ title, unit, before, now, is_clear: isClear }) => {
      const remark = isClear === null || before === now ? [] : [createElement("span", { className: isClear ? "state paused" : "soft remark" }, t(isClear ? "changes_clear" : "changes_chance"))];
      return createElement(
        "tr",
        { data: { key: title } },
        createElement("th", { scope: "row" }, createElement("span", { lang: "en", dir: "ltr" }, title), ...remark),
        createElement("td", { className: "numeric" }, say(before, unit)),
        createElement("td", { className: "numeric" }, say(now, unit)),
      );
    });
    redraw($("change-rows"), ...rows);
  }
  return { showGroups, showChanges };
}
