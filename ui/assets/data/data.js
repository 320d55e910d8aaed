// The catalog's page. `element` holds data.html; `server` has open, search, facets, look, send and save, each a call to
// ui/data.py. address.js reads from the address what to find and what to open; hits.js draws what was found, facets.js
// the filters, and here is the order of things: every change goes into the address, and what it says is loaded.
function data(element, server) {
  const dashboard = createDashboard(element, "data", "en");
  const { $, t, storage, formatNumber, checkAnswer, showUpdated, showLoading, showTitle, showTimes } = dashboard;
  const PAGE_SIZE = 25, TYPING_PAUSE = 250; // ms after which a search begins
  const address = createDataAddress();
  const hits = createHits(dashboard, { open: (id) => openHit(id), choose: drawChosen });
  const facets = createFacets(dashboard, change);
  const actions = createDataActions(dashboard, server, whatIsMeant, () => (hits.forget(), renewal.reload()));
  let mayAct = false, next = null, found = { total: 0, is_exact: true }, shownFilter = null, openId = null;
  let latest = 0; // numbers the requests, so that an answer that comes too late is not drawn

  // --- the list
  async function load() {
    const request = ++latest;
    const { filter } = address.read();
    if (document.activeElement !== $("words")) $("words").value = filter.words ?? "";
    const isSame = JSON.stringify(filter) === shownFilter;
    const limit = isSame ? Math.min(50, Math.max(PAGE_SIZE, hits.get().length)) : PAGE_SIZE;
    facets.drawChips(filter);
    const answer = await server.search({ filter, limit });
    if (request !== latest) return true;
    if (!checkAnswer(answer)) return false;
    shownFilter = JSON.stringify(filter);
    showFound(answer.hits, answer);
    const counted = await server.facets({ filter });
    if (request !== latest) return true;
    if (!checkAnswer(counted)) return false;
    facets.draw(counted.facets, filter);
    return true;
  }
  function showFound(list, answer) {
    found = answer;
    next = answer.next;
    hits.draw(list, { canChoose: mayAct });
    const n = answer.is_exact ? formatNumber(answer.total) : `≈ ${formatNumber(Number(answer.total.toPrecision(2)))}`;
    $("found").textContent = `${n} ${answer.total === 1 ? "comparison" : "comparisons"}`;
    $("waiting").textContent = answer.waiting ? `About ${formatNumber(answer.waiting)} changes are not in the catalog yet.` : "";
    $("nothing").hidden = list.length > 0;
    $("more").hidden = next === null;
    drawChosen();
  }
  async function showMore() {
    const request = ++latest;
    const { filter } = address.read();
    const answer = await server.search({ filter, after: next, limit: PAGE_SIZE });
    if (request !== latest || !checkAnswer(answer)) return;
    const before = hits.get();
    showFound([...before, ...answer.hits], { ...answer, total: Math.max(found.total, before.length + answer.hits.length) });
    hits.focus(answer.hits[0]?.id);
  }
  function drawChosen() {
    $("actions").hidden = !mayAct || found.total === 0;
    const n = hits.chosen().length;
    $("choose-all").checked = n > 0 && n === hits.get().length;
    $("chosen-count").textContent = n ? `${formatNumber(n)} chosen` : "all found";
  }
  // What an action is about: what is open, what is chosen, or everything that was found.
  function whatIsMeant(name) {
    const { filter } = address.read();
    const ids = name === "save" ? null : openId ? [openId] : hits.chosen().length ? hits.chosen() : null;
    return { filter, ids, total: found.total, isExact: found.is_exact };
  }
  // Change the filter, with a step for Back.
  function change(make) {
    const { filter } = address.read();
    const changed = make(filter);
    if (JSON.stringify(changed) !== JSON.stringify(filter)) address.push({ filter: changed });
    load();
  }

  // --- one comparison
  function openHit(id) {
    address.push({ ...address.read(), open: id });
    showOpened();
  }
  async function showOpened() {
    const { open } = address.read();
    const wasOpen = openId;
    openId = open;
    if (!open) return showList(wasOpen);
    const request = ++latest;
    const answer = await server.look({ id: open });
    if (request !== latest) return;
    if (!checkAnswer(answer)) {
      openId = null;
      return showList(null);
    }
    $("finder").hidden = true;
    $("opened").hidden = false;
    $("opened-actions").hidden = !mayAct;
    $("opened-title").textContent = answer.title;
    redraw($("history"), ...parseHtml(answer.html));
    showTimes($("history"));
    showTitle(answer.title);
    makeScrollable($("history"));
    const at = hits.indexOf(open);
    $("position").textContent = at < 0 ? "" : `${formatNumber(at + 1)} of ${$("found").textContent}`;
    $("previous").setAttribute("aria-disabled", String(at < 1));
    $("next").setAttribute("aria-disabled", String(at < 0 || (at + 1 >= hits.get().length && next === null)));
    window.scrollTo({ top: 0 });
    $("opened-title").focus({ preventScroll: true });
  }
  function showList(wasOpen) {
    $("opened").hidden = true;
    $("finder").hidden = false;
    showTitle();
    if (wasOpen) hits.focus(wasOpen);
  }
  function close() {
    const { filter } = address.read();
    address.push({ filter });
    showOpened();
    if (shownFilter === null) load();
  }
  async function turn(by) {
    const at = hits.indexOf(openId);
    if (at < 0 || at + by < 0) return;
    if (at + by >= hits.get().length) {
      if (next === null) return;
      await showMore();
    }
    const hit = hits.get()[at + by];
    if (!hit) return;
    address.replace({ ...address.read(), open: hit.id });
    showOpened();
  }

  // --- all of it
  async function renew(isQuiet) {
    if (isQuiet) return true; // what is being read stays as it is
    showLoading();
    const answer = await server.open({});
    if (!checkAnswer(answer)) return false;
    mayAct = answer.may_act;
    actions.setRaters(answer.raters);
    const isLoaded = await load();
    if (address.read().open) await showOpened();
    return isLoaded;
  }
  const renewal = createRenewal(renew, (isRenewed) => showUpdated(isRenewed));
  let typingTimer;
  $("find").addEventListener("submit", (event) => event.preventDefault());
  $("words").addEventListener("input", () => {
    clearTimeout(typingTimer);
    typingTimer = setTimeout(() => {
      const { words: _, ...filter } = address.read().filter;
      const words = $("words").value.trim();
      address.replace({ filter: words ? { words, ...filter } : filter });
      load();
    }, TYPING_PAUSE);
  });
  $("more").addEventListener("click", showMore);
  $("back").addEventListener("click", close);
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("reload").addEventListener("click", renewal.reload);
  const rawView = createRawView(element, storage, [$("raw")], (isOn) => ($("announce").textContent = t(isOn ? "raw_on" : "raw_off")));
  $("raw").addEventListener("click", rawView.toggle);
  createPictureViewer(element, t);
  listenToDataKeys($, { close, turn, step: hits.step, choose: hits.toggleFocused, toggleRaw: rawView.toggle, find: () => (showList(null), $("words").focus()) });
  window.addEventListener("popstate", () => {
    if (JSON.stringify(address.read().filter) !== shownFilter) load().then(showOpened);
    else showOpened();
  });
  renewal.reload();
}
