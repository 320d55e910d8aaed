// The examples of an evaluation: the list of those found, and the one shown beside it.
function createExampleBrowser(dashboard, server, address, requests) {
  const { element, storage, $, t, checkAnswer } = dashboard;
  const formatNumber = new Intl.NumberFormat().format;
  let current = { at: null, total: 0, example: null }; // the example shown: its place among those found, and its name
  let drawnPage = ""; // the query and page that the list shows

  // Show one example, by its place (`at`) among those found or by its name (`example`).
  async function show(which) {
    const request = requests.begin();
    const hash = location.hash;
    const query = address.readQuery();
    $("example-box").setAttribute("aria-busy", "true");
    const answer = await server.look({ ...query, ...which });
    if (!requests.isLatest(request) || location.hash !== hash) return; // something else was asked for meanwhile
    $("example-box").removeAttribute("aria-busy");
    if (!checkAnswer(answer)) {
      if (answer && which.example) await showFirstInstead(answer.problem);
      return;
    }
    current = answer;
    draw(answer, query);
    address.replace({ ...query, example: answer.example });
    if (showsDifference()) await setDifference(true);
  }
  // Where the example asked for cannot be shown, show the first one and the problem, unless something else is asked for.
  async function showFirstInstead(problem) {
    const showsFirst = show({});
    const request = requests.current();
    await showsFirst;
    if (requests.isLatest(request)) checkAnswer({ problem });
  }
  function draw(answer, query) {
    $("example-browser").hidden = false;
    for (const name of ["show", "order"]) $(name).value = query[name];
    $("slice").value = query.tag === null ? "" : JSON.stringify([query.tag, query.value]);
    if (document.activeElement !== $("search")) $("search").value = query.words;
    const page = JSON.stringify([query, answer.first, answer.total]);
    if (page !== drawnPage) $("example-list").innerHTML = answer.list;
    drawnPage = page;
    markCurrent();
    $("example").innerHTML = answer.html || '<p class="note">No example is like that. Choose others above.</p>';
    $("result-count").textContent = answer.total ? `${formatNumber(answer.total)} found` : "none found";
    $("position").textContent = describePosition(answer);
    $("previous").setAttribute("aria-disabled", !(answer.at > 0));
    $("next").setAttribute("aria-disabled", !(answer.total > (answer.at ?? -1) + 1));
    $("copy-link").textContent = "Copy link";
    $("announce").textContent = [$("position").textContent, $("example").querySelector("h3")?.innerText].filter(Boolean).join(", ");
    highlight(query.words);
    makeScrollable($("example"));
  }
  function describePosition({ example, at, total }) {
    if (example === null) return "";
    return at === null ? "not among those chosen" : `${formatNumber(at + 1)} of ${formatNumber(total)}`;
  }
  function markCurrent() {
    const list = $("example-list");
    list.querySelector("[aria-current]")?.removeAttribute("aria-current");
    const button = current.at === null ? null : list.querySelector(`[data-index="${current.at}"]`);
    if (!button) return;
    button.setAttribute("aria-current", "true");
    const bounds = list.getBoundingClientRect(), { top, bottom } = button.getBoundingClientRect();
    if (top < bounds.top || bottom > bounds.bottom) list.scrollTop += top - bounds.top - bounds.height / 3;
  }
  // Show the example so many places further on.
  function step(by) {
    if (current.at === null && by < 0) return;
    const at = current.at === null ? 0 : current.at + by;
    if (at < 0 || at >= current.total) return;
    current = { ...current, at }; // the next key counts from here, whether this one is answered by then or not
    show({ at });
    const { top } = $("example-box").getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) $("example-box").scrollIntoView();
  }

  // Highlight the words searched for, without changing the HTML of the texts.
  function highlight(search) {
    if (!CSS.highlights) return;
    CSS.highlights.delete("looked-for");
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) CSS.highlights.set("looked-for", new Highlight(...findRanges(words)));
  }
  function findRanges(words) {
    const RANGES_LIMIT = 1000;
    const ranges = [];
    const nodes = document.createTreeWalker($("example"), NodeFilter.SHOW_TEXT);
    while (nodes.nextNode() && ranges.length < RANGES_LIMIT) {
      const node = nodes.currentNode;
      if (!node.parentElement.closest(".text, .raw, .json")) continue;
      const text = node.data.toLowerCase();
      if (text.length !== node.data.length) continue; // a lower-case form is longer, so that positions would be wrong
      for (const word of words)
        for (let start = text.indexOf(word); start >= 0 && ranges.length < RANGES_LIMIT; start = text.indexOf(word, start + word.length)) {
          const range = new Range();
          range.setStart(node, start);
          range.setEnd(node, start + word.length);
          ranges.push(range);
        }
    }
    return ranges;
  }

  const showsDifference = () => $("difference").getAttribute("aria-pressed") === "true";
  // Mark the words in which the two answers differ, or show them as they are.
  async function setDifference(isWanted) {
    $("difference").setAttribute("aria-pressed", isWanted);
    if (current.example === null) return;
    if (!isWanted) return show({ example: current.example });
    const request = requests.current();
    const answer = await server.difference({ of: address.read().of, example: current.example });
    if (!requests.isLatest(request) || !checkAnswer(answer)) return;
    $("example").querySelectorAll(".answer-text").forEach((box, index) => (box.innerHTML = answer.marked[index]));
    highlight(address.readQuery().words);
    makeScrollable($("example"));
  }
  const toggleDifference = () => setDifference(!showsDifference());

  // Show the first of other examples.
  function changeQuery(change) {
    address.replace({ ...address.readQuery(), ...change });
    return show({});
  }
  async function copyLink() {
    if (await copyText(location.href)) $("copy-link").textContent = $("announce").textContent = "Link copied";
    else window.prompt("", location.href);
  }
  function setChoices({ shows, slices }) {
    drawnPage = "";
    fillSelect($("show"), shows);
    const options = slices.map(([tag, value]) => [JSON.stringify([tag, value]), `${tag}: ${value}`]);
    fillSelect($("slice"), [["", "every example"], ...options]);
  }

  const TYPING_PAUSE = 250; // ms after which a search begins
  let typingTimer;
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["show", "order"]) $(name).addEventListener("change", () => changeQuery({ [name]: $(name).value }));
  $("slice").addEventListener("change", () => {
    const [tag, value] = $("slice").value ? JSON.parse($("slice").value) : [null, ""];
    changeQuery({ tag, value });
  });
  $("search").addEventListener("input", () => {
    clearTimeout(typingTimer);
    typingTimer = setTimeout(() => changeQuery({ words: $("search").value.trim() }), TYPING_PAUSE);
  });
  $("example-list").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) show({ at: Number(button.dataset.index) });
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("difference").addEventListener("click", toggleDifference);
  $("copy-link").addEventListener("click", copyLink);
  const rawView = createRawView(element, storage, [$("raw")], (isOn) => {
    if (showsDifference()) setDifference(false);
    makeScrollable($("example"));
    $("announce").textContent = t(isOn ? "raw_on" : "raw_off");
  });
  $("raw").addEventListener("click", rawView.toggle);
  const { openFirst } = createPictureViewer(element, t);
  return { show, step, changeQuery, toggleDifference, toggleRaw: rawView.toggle, enlarge: openFirst, setChoices };
}
