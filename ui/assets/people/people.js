// The page of people. `element` holds people.html; `server` has open, change and invite, each a call to ui/people.py.
function people(element, server) {
  const dashboard = createDashboard(element);
  const { $, checkAnswer, showUpdated } = dashboard;
  const PAGE_SIZE = 50;
  const TEXT_COLUMNS = ["name", "role", "state"];
  const view = createPeopleView($);

  let everybody = []; // as the server gives them
  let matching = []; // those who match the search, sorted
  let sortKey = "today", isAscending = false;
  let offset = 0; // the index in `matching` of the first person on this page
  const changing = new Set(); // the ids of those whose change is on its way

  // --- which people, in which order
  function updateMatching() {
    const searched = $("search").value.trim().toLowerCase();
    const compareTexts = new Intl.Collator([], { numeric: true }).compare;
    matching = everybody
      .filter((person) => view.searchText(person).includes(searched))
      .sort((a, b) => {
        const [x, y] = [a[sortKey], b[sortKey]];
        if (x === null || y === null) return (x === null) - (y === null); // those without a value come last in both orders
        const order = typeof x === "number" ? x - y : compareTexts(x, y);
        return (isAscending ? order : -order) || compareTexts(a.name, b.name);
      });
    offset = 0;
    showPage();
  }
  function showPage() {
    const shown = matching.slice(offset, offset + PAGE_SIZE);
    const end = offset + shown.length;
    $("people-rows").replaceChildren(...shown.map(view.createRow));
    $("shown-range").textContent = view.describeRange(offset, end, matching.length);
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
  async function load() {
    const answer = await server.open({});
    if (!checkAnswer(answer)) return;
    everybody = answer.people;
    view.showTotals(everybody);
    view.showDailyChart(answer.by_day, answer.today);
    view.showOtherRaters(answer);
    inviteDialog.setChoices(answer);
    $("totals").hidden = $("staff").hidden = false;
    updateMatching();
    showUpdated();
  }
  // Change a person and draw their row anew, where it is and with the focus where it was. Returns whether that worked.
  async function change(person, changes, notice) {
    if (changing.has(person.id)) return false;
    changing.add(person.id);
    const answer = await server.change({ id: person.id, ...changes });
    changing.delete(person.id);
    if (!checkAnswer(answer, notice)) return false;
    Object.assign(person, answer.person);
    const oldRow = rowOf(person);
    const focusedAction = oldRow?.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    oldRow?.replaceWith(view.createRow(person));
    if (focusedAction) focusAction(person, focusedAction);
    view.showTotals(everybody);
    $("announce").textContent = view.describeSaved(person);
    return true;
  }
  const rowOf = (person) => [...$("people-rows").children].find((row) => row.dataset.id === person.id);
  const focusAction = (person, action) => rowOf(person)?.querySelector(`[data-action="${action}"]`)?.focus();

  // --- listeners
  const editDialog = createEditDialog($, change, (person) => focusAction(person, "edit"));
  const inviteDialog = createInviteDialog(dashboard, server);
  $("reload").addEventListener("click", load);
  $("search").addEventListener("input", updateMatching);
  $("previous").addEventListener("click", () => turnPage(-PAGE_SIZE));
  $("next").addEventListener("click", () => turnPage(PAGE_SIZE));
  element.querySelector("thead").addEventListener("click", (event) => {
    const key = event.target.closest("button")?.parentElement.dataset.sort;
    if (key) sortBy(key);
  });
  $("people-rows").addEventListener("click", (event) => {
    const action = event.target.closest("[data-action]")?.dataset.action;
    if (!action) return;
    const person = everybody.find(({ id }) => id === event.target.closest("tr").dataset.id);
    if (action === "edit") editDialog.open(person);
    else change(person, person.disabled ? { disabled: false } : { paused: !person.paused });
  });
  for (const button of element.querySelectorAll("[data-close]"))
    button.addEventListener("click", () => button.closest("dialog").close());

  load();
}
