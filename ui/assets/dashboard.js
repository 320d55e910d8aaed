// What the pages of leads and evaluators (lead, people, replay) share. `element` holds the page, with #notice, #overview
// and #updated in it; `name` is the page's in the list of ui/navigation.py. `fixedLanguage` is that of a page whose texts
// come from the server in one language: its title and dates are in it too, and read in its direction.
function createDashboard(element, name, fixedLanguage = null) {
  const $ = (id) => element.querySelector(`#${id}`);
  const storage = createStorage("rlhf_hitl.");
  const i18n = createI18n(element, storage);
  const { t, formatNumber, formatTime } = i18n;

  // Return whether the server did what it was asked. If not, `notice` says why, and nothing has changed.
  function checkAnswer(answer, notice = $("notice")) {
    const problem = answer ? answer.problem : t("no_answer");
    if (notice.textContent !== (problem ?? "")) notice.textContent = problem ?? "";
    notice.hidden = !problem;
    return !problem;
  }
  // Show of what time the page is, or that it could not be renewed since.
  function showUpdated(isUpdated = true) {
    $("overview").removeAttribute("aria-busy");
    showAge($("updated"), isUpdated, new Date().toISOString());
  }
  // `status` says of what time something is, and keeps that time.
  function showAge(status, isUpdated, now) {
    if (isUpdated) status.dataset.at = now;
    const { at } = status.dataset;
    status.textContent = at ? t(isUpdated ? "as_of" : "not_renewed", { time: showTime(at) }) : "";
  }
  // Show that the whole page is being loaded.
  function showLoading() {
    $("overview").setAttribute("aria-busy", "true");
    $("updated").textContent = t("reading");
  }
  // Set the title of the document: the page's, after that of what it shows.
  function showTitle(shown = "") {
    document.title = [shown, t(`page_${name}`), "rlhf_hitl"].filter(Boolean).join(" · ");
  }
  // Offer the projects to choose from, in #project. The address may name one that does not exist.
  function showProjects(projects) {
    const { project = "" } = readAddress();
    const isKnown = !project || projects.some(({ id }) => id === project);
    fillProjects($("project"), t("all_projects"), projects, t);
    if (!isKnown) $("project").append(createElement("option", { value: project }, t("project_unknown", { project })));
    $("project").value = project;
  }
  // A time in the reader's zone and language, as everywhere on these pages.
  const showTime = (iso) => formatTime(iso).replace(/ (?=\p{L}+$)/u, "\u00a0"); // no AM on a line of its own
  const createTime = (iso) => createElement("time", { dateTime: iso }, showTime(iso));
  function showTimes(root) {
    for (const time of root.querySelectorAll("time"))
      if (!Number.isNaN(Date.parse(time.dateTime))) time.textContent = showTime(time.dateTime);
  }

  i18n.setLanguage(fixedLanguage ?? i18n.language);
  showTitle();
  const theme = storage.get("theme", ""); // as chosen on the rating page; else the system's
  if (theme) document.body.classList.toggle("dark", theme === "dark");
  showNavigation(element);
  return { element, storage, $, t, formatNumber, language: i18n.language, checkAnswer, showProjects, showUpdated, showAge, showLoading, showTitle, createTime, showTimes };
}

// What is chosen on a page stands in its address after #, so that a reload and a link keep it.
function readAddress() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}
function replaceAddress(values) {
  const chosen = new URLSearchParams(Object.entries(values).filter(([, value]) => value));
  history.replaceState(history.state, "", chosen.size ? `#${chosen}` : location.pathname);
}

// Call the server even where the page is being closed meanwhile. Resolves to the answer, or to undefined where none came.
async function callSurely(name, data) {
  const component = window.gradio_config.components.find(({ props }) => props.elem_id === "page");
  const body = JSON.stringify({ fn_name: name, component_id: component.id, data });
  const headers = { "content-type": "application/json" };
  try {
    const response = await fetch("gradio_api/component_server/", { method: "POST", keepalive: true, headers, body });
    return response.ok ? await response.json() : undefined;
  } catch {
    return undefined;
  }
}

// Create an element with properties, attributes, data attributes (`data`) and children. Strings become text, never HTML.
function createElement(tag, { data = {}, attributes = {}, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  Object.assign(node.dataset, data);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Create the cells of a table whose rows become cards on a narrow screen, where each cell shows its `label`.
function createCell(label, className, ...children) {
  return createElement("td", { className, data: { label }, attributes: { role: "cell" } }, ...children);
}
function createRow(key, title, ...cells) {
  const header = createElement("th", { attributes: { scope: "row", role: "rowheader" } }, ...[title].flat());
  return createElement("tr", { data: { key }, attributes: { role: "row" } }, header, ...cells);
}

// Fill a <select> with options, each [value, text]. What is chosen stays chosen, where it is among them.
function fillSelect(select, options) {
  const chosen = select.value;
  redraw(select, ...options.map(([value, text]) => createElement("option", { value, data: { key: `o${value}` } }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

// Fill a <select> with the projects, those that are paused marked, after an option for none of them.
function fillProjects(select, none, projects, t) {
  const options = projects.map(({ id, paused }) => [id, paused ? t("project_paused", { project: id }) : id]);
  fillSelect(select, [["", none], ...options]);
}

// Mark the header of the column by which a table is sorted.
function markSortedColumn(headers, sortedHeader, isAscending) {
  for (const header of headers) header.removeAttribute("aria-sort");
  sortedHeader.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
}

// Copy a text to the clipboard. Resolves to whether that worked: browsers allow it only over TLS and on this machine.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
