// The replay page. `element` holds replay.html; `server` has open, evaluation, look and difference, each a call to
// ui/replay.py. address.js reads from the address what to show; here the list of evaluations, or the figures of one
// or two of them, are loaded and drawn; examples.js shows the examples.
function replay(element, server) {
  const dashboard = createDashboard(element);
  const { $, checkAnswer, showUpdated } = dashboard;
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
      if (!checkAnswer(answer)) {
        opened = null;
        $("evaluations").hidden = false;
        return showUpdated();
      }
      opened = names;
      if (of) drawEvaluation(answer);
      else drawList(answer);
      showUpdated();
    }
    if (of) await examples.show(example ? { example } : {});
  }
  function load(of, beside) {
    $("evaluation").hidden = $("example-browser").hidden = true;
    $("overview").setAttribute("aria-busy", "true");
    $("updated").textContent = "reading …";
    return of ? server.evaluation({ of, beside }) : server.open({});
  }
  function drawList(answer) {
    $("evaluations").innerHTML = answer.html; // made by a template that escapes everything
    for (const link of element.querySelectorAll("[data-page]")) link.hidden = !answer.pages.includes(link.dataset.page);
  }
  function drawEvaluation(answer) {
    $("evaluation").innerHTML = answer.html;
    $("evaluation").hidden = false;
    examples.setChoices(answer);
  }
  // Sort the table of slices by a column: numbers from the highest, texts from A.
  function sortSlices(header) {
    const rows = [...header.closest("table").querySelectorAll("tbody tr")];
    const isText = header.dataset.sort === "text";
    const isAscending = header.hasAttribute("aria-sort") ? header.getAttribute("aria-sort") === "descending" : isText;
    markSortedColumn(header.parentElement.children, header, isAscending);
    const compareTexts = new Intl.Collator([], { numeric: true }).compare;
    const valueOf = (row) => row.children[header.cellIndex].dataset.value;
    const compare = (a, b) => (isText ? compareTexts(valueOf(a), valueOf(b)) : valueOf(a) - valueOf(b));
    rows.sort((a, b) => (isAscending ? compare(a, b) : -compare(a, b)));
    rows[0]?.parentElement.append(...rows);
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
  $("evaluations").addEventListener("change", () => {
    const isFull = checkedNames().length === 2;
    for (const box of element.querySelectorAll(".compare-choice:not(:checked)")) box.disabled = isFull;
    $("compare").setAttribute("aria-disabled", !isFull);
  });
  $("evaluations").addEventListener("click", (event) => {
    const [of, beside] = checkedNames();
    if (event.target.closest("#compare") && beside) address.open({ of, beside });
  });
  $("reload").addEventListener("click", () => {
    opened = null;
    showAddress();
  });
  listenToReplayKeys($, examples);

  // Which other pages the evaluator may open comes with the list, so it is loaded wherever the address leads.
  async function start() {
    const answer = address.read().of ? await server.open({}) : null;
    if (answer?.pages) drawList(answer);
    showAddress();
  }
  window.addEventListener("hashchange", showAddress);
  start();
}
