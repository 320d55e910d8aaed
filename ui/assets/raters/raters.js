// The page of raters. `element` holds raters.html; `server` has open, detail, pause, overrule and check: calls to
// ui/raters.py.
function raters(element, server) {
  const dashboard = createDashboard(element, "raters");
  const { $, t, language, formatNumber, checkAnswer, showProjects, showUpdated, showLoading } = dashboard;
  const PAGE_SIZE = 50;
  const view = createRatersView(dashboard);

  let everybody = []; // as the server gives them
  let matching = []; // those who match the search, sorted
  let sortKey = "findings", isAscending = false;
  let offset = 0; // the index in `matching` of the first rater on this page
  let isBusy = false; // a change is on its way

  // --- who is shown, in which order
  function readSortValue(rater) {
    const value = rater[sortKey];
    if (sortKey === "findings") return value.length;
    return value !== null && typeof value === "object" ? value.value : value;
  }
  function updateMatching() {
    const compareTexts = new Intl.Collator(language, { numeric: true }).compare;
    const wanted = $("search").value.trim().toLowerCase();
    matching = everybody.filter((rater) => view.searchText(rater).includes(wanted)).sort((a, b) => {
      const [x, y] = [readSortValue(a), readSortValue(b)];
      if (x === null || y === null) return (x === null) - (y === null) || compareTexts(a.name, b.name); // unknown last
      const order = typeof x === "number" ? x - y : compareTexts(x, y);
      return (isAscending ? order : -order) || b.judgments - a.judgments || compareTexts(a.name, b.name);
    });
    offset = 0;
    showPage();
  }
  function showPage() {
    const shown = matching.slice(offset, offset + PAGE_SIZE);
    const end = offset + shown.length;
    redraw($("rater-rows"), ...shown.map(view.createRow));
    const range = view.describeRange(offset, end, matching.length);
    if ($("shown-range").textContent !== range) $("shown-range").textContent = range;
    $("pages").hidden = matching.length <= PAGE_SIZE;
    $("previous").setAttribute("aria-disabled", String(offset === 0));
    $("next").setAttribute("aria-disabled", String(end === matching.length));
    const headers = [...element.querySelectorAll("[data-sort]")];
    markSortedColumn(headers, headers.find((header) => header.dataset.sort === sortKey), isAscending);
  }
  function turnPage(by) {
    if (offset + by < 0 || offset + by >= matching.length) return;
    offset += by;
    showPage();
  }
  function sortBy(key) {
    isAscending = sortKey === key ? !isAscending : key === "name";
    sortKey = key;
    updateMatching();
  }

  // --- calls of the server
  async function load(isQuiet) {
    if (!isQuiet) showLoading();
    const answer = await server.open({ project: readAddress().project ?? null });
    if (!checkAnswer(answer)) return false;
    showProjects(answer.projects);
    everybody = answer.raters;
    view.setPopulation(everybody, answer.usual);
    view.showNotes(answer);
    $("raters-panel").hidden = false;
    const kept = offset;
    updateMatching();
    if (isQuiet && kept < matching.length) {
      offset = kept;
      showPage();
    }
    return true;
  }
  // Send a change of one rater and draw their row anew. Resolves to whether that worked.
  async function change(call, rater, message, notice) {
    if (isBusy) return false;
    isBusy = true;
    const answer = await server[call]({ id: rater.id, ...message });
    isBusy = false;
    if (!checkAnswer(answer, notice)) return false;
    Object.assign(rater, answer.rater);
    showPage();
    $("announce").textContent = t("saved", { name: rater.name, state: t(`state_${rater.state}`) });
    return true;
  }
  async function runChecks() {
    if (isBusy) return;
    isBusy = true;
    $("check").setAttribute("aria-disabled", "true");
    const answer = await server.check({});
    isBusy = false;
    $("check").removeAttribute("aria-disabled");
    if (!checkAnswer(answer)) return;
    await load(true);
    $("announce").textContent = t("raters_checked", { n: formatNumber(answer.found) });
  }
  const rowOf = (rater) => [...$("rater-rows").children].find((row) => row.dataset.key === rater.id);

  // --- listeners
  const overrule = (rater, because, notice) => change("overrule", rater, { because }, notice);
  const focusName = (rater) => rowOf(rater)?.querySelector(".name-button")?.focus();
  const detail = createDetailDialog(dashboard, view, server, overrule, focusName);
  const renewal = createRenewal(load, showUpdated);
  $("search").placeholder = t("raters_find_short");
  $("search").addEventListener("input", updateMatching);
  $("reload").addEventListener("click", renewal.reload);
  $("check").addEventListener("click", runChecks);
  $("project").addEventListener("change", () => {
    replaceAddress({ ...readAddress(), project: $("project").value });
    renewal.reload();
  });
  $("previous").addEventListener("click", () => turnPage(-PAGE_SIZE));
  $("next").addEventListener("click", () => turnPage(PAGE_SIZE));
  element.querySelector("thead").addEventListener("click", (event) => {
    const key = event.target.closest("button")?.parentElement.dataset.sort;
    if (key) sortBy(key);
  });
  $("rater-rows").addEventListener("click", (event) => {
    const action = event.target.closest("[data-action]")?.dataset.action;
    if (!action) return;
    const rater = everybody.find(({ id }) => id === event.target.closest("tr").dataset.key);
    if (action === "pause") change("pause", rater, { paused: !rater.paused });
    else detail.open(rater, readAddress().project ?? null, action === "overrule");
  });
  for (const button of element.querySelectorAll("[data-close]"))
    button.addEventListener("click", () => button.closest("dialog").close());
  window.addEventListener("hashchange", renewal.reload);

  renewal.reload();
}
