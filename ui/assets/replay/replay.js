// The replay page. `element` holds replay.html; `server` has open, evaluation, look and difference, each a call to
// ui/replay.py. address.js reads from the address what to show; here the list of evaluations, or the figures of one
// or two of them, are loaded and drawn; examples.js shows the examples.
function replay(element, server) {
  const dashboard = createDashboard(element, "replay", "en");
  const { $, checkAnswer, showUpdated, showLoading, showTitle, showTimes } = dashboard;
  const address = createReplayAddress();
  const requests = createRequestOrder();
  const examples = createExampleBrowser(dashboard, server, address, requests);
  let opened = null; // the names of the evaluations shown

  // Show what the address names.
  async function showAddress() {
    const { of, beside = null, example = null } = address.read();
    const names = of ? JSON.stringify([of, beside]) : "";
    $("evaluations").hidden = Boolean(of);
    const request = requests.begin();
    if (!of || names !== opened) {
      const answer = await load(of, beside);
      if (!requests.isLatest(request)) return;
      if (of && answer?.problem) await showListInstead(request);
      if (!checkAnswer(answer)) {
        opened = null;
        showTitle();
        $("evaluations").hidden = false;
        return showUpdated(false);
      }
      opened = names;
      showTitle(answer.title);
      if (of) drawEvaluation(answer);
      else drawList(answer);
      showUpdated();
    }
    if (of) await examples.show(example ? { example } : {});
  }
  function load(of, beside) {
    $("evaluation").hidden = $("example-browser").hidden = true;
    showLoading();
    return of ? server.evaluation({ of, beside }) : server.open({});
  }
  // An evaluation that cannot be shown leaves the list to choose from.
  async function showListInstead(request) {
    const answer = await server.open({});
    if (!requests.isLatest(request)) return;
    if (answer?.html) drawList(answer);
  }
  function drawList(answer) {
    redraw($("evaluations"), ...parseHtml(answer.html));
    showTimes($("evaluations"));
    updateChoices();
  }
  function drawEvaluation(answer) {
    $("evaluation").replaceChildren(...parseHtml(answer.html));
    showTimes($("evaluation"));
    $("evaluation").hidden = false;
    examples.setChoices(answer);
  }
  // Renew the list. An evaluation does not change, and who reads it keeps their place.
  async function renew(isQuiet) {
    if (!isQuiet) {
      opened = null;
      await showAddress();
      return true;
    }
    const request = requests.current();
    const answer = address.read().of ? null : await server.open({});
    if (address.read().of || !requests.isLatest(request)) return true;
    const isRenewed = checkAnswer(answer);
    if (isRenewed) drawList(answer);
    showUpdated(isRenewed);
    return isRenewed;
  }
  // Sort the table of slices by a column: numbers from the highest, texts from A.
  function sortSlices(header) {
    const rows = [...header.closest("table").querySelectorAll("tbody tr")];
    const isText = header.dataset.sort === "text";
    const isAscending = header.hasAttribute("aria-sort") ? header.getAttribute("aria-sort") === "descending" : isText;
    markSortedColumn(header.parentElement.children, header, isAscending);
    const compareTexts = new Intl.Collator("en", { numeric: true }).compare;
    const valueOf = (row) => row.children[header.cellIndex].dataset.value;
    const compare = (a, b) => (isText ? compareTexts(valueOf(a), valueOf(b)) : valueOf(a) - valueOf(b));
    rows.sort((a, b) => (isAscending ? compare(a, b) : -compare(a, b)));
    rows[0]?.parentElement.append(...rows);
  }
  // Two evaluations can be compared: then no third one can be chosen.
  function updateChoices() {
    const isFull = checkedNames().length === 2;
    for (const box of element.querySelectorAll(".compare-choice:not(:checked)")) box.disabled = isFull;
    $("compare")?.setAttribute("aria-disabled", !isFull);
  }
  const checkedNames = () => [...element.querySelectorAll(".compare-choice:checked")].map((box) => box.value);

  $("evaluation").addEventListener("click", (event) => {
    const sliceButton = event.target.closest(".slice-examples");
    if (sliceButton) examples.changeQuery({ tag: sliceButton.dataset.tag, value: sliceButton.dataset.value });
    if (sliceButton || event.target.closest("#to-examples")) {
      $("example-browser").scrollIntoView();
      $("slice").focus({ preventScroll: true });
    }
    const header = event.target.closest("[data-sort] button")?.parentElement;
    if (header) sortSlices(header);
  });
  $("evaluations").addEventListener("change", updateChoices);
  $("evaluations").addEventListener("click", (event) => {
    const [of, beside] = checkedNames();
    if (event.target.closest("#compare") && beside) address.open({ of, beside });
  });
  const renewal = createRenewal(renew, () => {});
  $("reload").addEventListener("click", renewal.reload);
  listenToReplayKeys($, examples);
  window.addEventListener("hashchange", showAddress);
  renewal.reload();
}
