// The page of people. `element` holds people.html; `server` has open, change and invite, each a call to ui/people.py.
function people(element, server) {
  const dashboard = createDashboard(element, "people");
  const { $, t, language, checkAnswer, showProjects, showUpdated, showLoading } = dashboard;
  const PAGE_SIZE = 50;
  const TEXT_COLUMNS = ["name", "role", "state"];
  const view = createPeopleView(dashboard);

  let everybody = []; // as the server gives them
  let projects = [];
  let matching = []; // those who match the search and the project, sorted
  let sortKey = "today", isAscending = false;
  let offset = 0; // the index in `matching` of the first person on this page
  const changing = new Set(); // the ids of those whose change is on its way
  const changedAt = new Map(); // id → when their last change was confirmed

  // --- which people, in which order
  function updateMatching() {
    const compareTexts = new Intl.Collator(language, { numeric: true }).compare;
    matching = everybody.filter(isWanted).sort((a, b) => {
      const [x, y] = [a[sortKey], b[sortKey]];
      if (x === null || y === null) return (x === null) - (y === null); // those without a value come last in both orders
      const order = typeof x === "number" ? x - y : compareTexts(x, y);
      return (isAscending ? order : -order) || compareTexts(a.name, b.name);
    });
    offset = 0;
    showPage();
  }
  function isWanted(person) {
    const { project } = readAddress();
    const isOpen = !project || projects.some(({ id, open }) => id === project && open);
    const mayWork = isOpen || person.projects.includes(project);
    return mayWork && view.searchText(person).includes($("search").value.trim().toLowerCase());
  }
  function showPage() {
    const shown = matching.slice(offset, offset + PAGE_SIZE);
    const end = offset + shown.length;
    redraw($("people-rows"), ...shown.map(view.createRow));
    const range = view.describeRange(offset, end, matching.length);
    if ($("shown-range").textContent !== range) $("shown-range").textContent = range;
    $("pages").hidden = matching.length <= PAGE_SIZE;
    // Not `disabled`, which would take the focus away from the button just pressed.
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
    isAscending = sortKey === key ? !isAscending : TEXT_COLUMNS.includes(key);
    sortKey = key;
    updateMatching();
  }

  // --- calls of the server
  async function load(isQuiet) {
    if (!isQuiet) showLoading();
    const begun = Date.now();
    const answer = await server.open({});
    if (!checkAnswer(answer)) return false;
    projects = answer.projects;
    showProjects(projects);
    takeOver(answer.people, begun);
    view.showTotals(everybody);
    view.showDailyChart(answer.by_day, answer.today);
    view.showOtherRaters(answer);
    inviteDialog.setChoices(answer);
    $("totals").hidden = $("staff").hidden = false;
    if (isQuiet) showPage();
    else updateMatching();
    return true;
  }
  // Take over what the server said of everybody when it was asked, at `begun`; a change made since stays. Who is shown
  // stays in their row, and who came new is added after the others.
  function takeOver(fresh, begun) {
    const known = new Map(everybody.map((person) => [person.id, person]));
    const isStale = ({ id }) => changing.has(id) || changedAt.get(id) >= begun;
    everybody = fresh.map((person) => Object.assign(known.get(person.id) ?? {}, isStale(person) ? {} : person));
    matching.push(...everybody.filter((person) => !known.has(person.id) && isWanted(person)));
  }
  // Change a person and draw their row anew, where it is and with the focus where it was. Returns whether that worked.
  async function change(person, changes, notice) {
    if (changing.has(person.id)) return false;
    changing.add(person.id);
    const answer = await server.change({ id: person.id, ...changes });
    changing.delete(person.id);
    changedAt.set(person.id, Date.now());
    if (!checkAnswer(answer, notice)) return false;
    Object.assign(person, answer.person);
    showPage();
    view.showTotals(everybody);
    $("announce").textContent = view.describeSaved(person);
    return true;
  }
  const rowOf = (person) => [...$("people-rows").children].find((row) => row.dataset.key === person.id);
  const focusAction = (person, action) => rowOf(person)?.querySelector(`[data-action="${action}"]`)?.focus();

  // --- listeners
  const editDialog = createEditDialog(dashboard, change, (person) => focusAction(person, "edit"));
  const inviteDialog = createInviteDialog(dashboard, server);
  const renewal = createRenewal(load, showUpdated);
  $("search").placeholder = t("people_find_short");
  $("search").addEventListener("input", updateMatching);
  $("reload").addEventListener("click", renewal.reload);
  $("project").addEventListener("change", () => {
    replaceAddress({ ...readAddress(), project: $("project").value });
    updateMatching();
  });
  $("previous").addEventListener("click", () => turnPage(-PAGE_SIZE));
  $("next").addEventListener("click", () => turnPage(PAGE_SIZE));
  element.querySelector("thead").addEventListener("click", (event) => {
    const key = event.target.closest("button")?.parentElement.dataset.sort;
    if (key) sortBy(key);
  });
  $("people-rows").addEventListener("click", (event) => {
    const action = event.target.closest("[data-action]")?.dataset.action;
    if (!action) return;
    const person = everybody.find(({ id }) => id === event.target.closest("tr").dataset.key);
    if (action === "edit") editDialog.open(person);
    else change(person, person.disabled ? { disabled: false } : { paused: !person.paused });
  });
  for (const button of element.querySelectorAll("[data-close]"))
    button.addEventListener("click", () => button.closest("dialog").close());
  window.addEventListener("hashchange", renewal.reload);

  renewal.reload();
}
