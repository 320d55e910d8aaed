// The replay page. `element` holds replay.html; `server` has open, evaluation, look and difference, each a call to
// ui/replay.py. What is shown stands in the address after #, so that a link leads to it:
// of (an evaluation), beside (another), show, order, tag, value, words, example.
function replay(element, server) {
  const { $, heard, fresh } = dashboard(element);
  const number = new Intl.NumberFormat();
  const WORDS = {
    reading: "reading …",
    all: "every example",
    none: "none found",
    nothing: "No example is like that. Choose others above.",
    at: (at, total) => `${number.format(at + 1)} of ${number.format(total)}`,
    apart: "not among those chosen",
    found: (total) => `${number.format(total)} found`,
    copied: "Link copied",
    copy: "Copy link",
  };

  let opened = null; // the evaluation, or two, on the page
  let now = { at: null, total: 0, first: null }; // the example on the page among those found
  let listed = ""; // the query and page of the list
  let newest = 0; // request: an answer to an older one is not drawn

  // --- the address
  const where = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const hash = (wanted) => `#${new URLSearchParams(Object.entries(wanted).filter(([, v]) => v))}`;
  // Another of the examples, or others of them: no step for the browser's Back.
  const note = (wanted) => history.replaceState(history.state, "", hash(wanted));
  function query() {
    const { of, beside = null, tag = null, value = "", words = "", example, ...rest } = where();
    const usual = beside ? "one_right" : example ? "all" : "disagreements";
    return { of, beside, show: rest.show ?? usual, order: rest.order ?? "wrong", tag, value, words };
  }

  // --- drawing
  async function route() {
    const mine = ++newest;
    const { of, beside = null, example = null } = where();
    $("evaluations").hidden = Boolean(of);
    const wanted = of ? JSON.stringify([of, beside]) : "";
    if (!of || wanted !== opened) {
      $("evaluation").hidden = $("example-browser").hidden = true;
      $("overview").setAttribute("aria-busy", "true");
      $("updated").textContent = WORDS.reading;
      const answer = of ? await server.evaluation({ of, beside }) : await server.open({});
      if (mine !== newest) return;
      if (!heard(answer)) {
        opened = null;
        $("evaluations").hidden = false;
        return fresh();
      }
      opened = wanted;
      listed = "";
      of ? drawEvaluation(answer) : drawList(answer);
      fresh();
    }
    if (of) await look(example ? { example } : {});
  }
  function drawList(answer) {
    $("evaluations").innerHTML = answer.html; // made by a template that escapes everything
    for (const link of element.querySelectorAll("[data-page]")) link.hidden = !answer.pages.includes(link.dataset.page);
  }
  function options(select, all) {
    select.replaceChildren(...all.map(([value, word]) => Object.assign(document.createElement("option"), { value, textContent: word })));
  }
  function drawEvaluation(answer) {
    $("evaluation").innerHTML = answer.html;
    $("evaluation").hidden = false;
    options($("show"), answer.shows);
    options($("slice"), [["", WORDS.all], ...answer.slices.map(([tag, value]) => [JSON.stringify([tag, value]), `${tag}: ${value}`])]);
  }

  // One example: the one asked for by its place (`at`) or its name (`example`).
  async function look(which) {
    const mine = ++newest;
    const begun = location.hash;
    const asked = query();
    $("example-box").setAttribute("aria-busy", "true");
    const answer = await server.look({ ...asked, ...which });
    if (mine !== newest || location.hash !== begun) return; // something else is wanted by now
    $("example-box").removeAttribute("aria-busy");
    if (!heard(answer)) {
      const problem = $("notice").textContent;
      if (!answer || !which.example) return;
      await look({}); // the others are still there
      if (mine + 1 === newest) heard({ problem });
      return;
    }
    now = answer;
    $("example-browser").hidden = false;
    for (const name of ["show", "order"]) $(name).value = asked[name];
    $("slice").value = asked.tag === null ? "" : JSON.stringify([asked.tag, asked.value]);
    if (document.activeElement !== $("search")) $("search").value = asked.words;
    const page = JSON.stringify([asked, answer.first, answer.total]);
    if (page !== listed) $("example-list").innerHTML = answer.list;
    listed = page;
    mark();
    $("example").innerHTML = answer.html || `<p class="note">${WORDS.nothing}</p>`;
    $("result-count").textContent = answer.total ? WORDS.found(answer.total) : WORDS.none;
    $("position").textContent = answer.example === null ? "" : answer.at === null ? WORDS.apart : WORDS.at(answer.at, answer.total);
    $("previous").setAttribute("aria-disabled", !(answer.at > 0));
    $("next").setAttribute("aria-disabled", !(answer.total > (answer.at ?? -1) + 1));
    $("copy-link").textContent = WORDS.copy;
    $("announce").textContent = [$("position").textContent, element.querySelector("#example h3")?.innerText].filter(Boolean).join(", ");
    note({ ...asked, example: answer.example });
    light(asked.words);
    reach();
    if (differing()) await differ(true);
  }
  // What scrolls by itself is scrolled with the keyboard, too.
  function reach() {
    for (const box of $("example").querySelectorAll(".text :is(pre, table, .math)"))
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
  function mark() {
    for (const button of $("example-list").querySelectorAll("button")) {
      const current = Number(button.dataset.index) === now.at;
      current ? button.setAttribute("aria-current", "true") : button.removeAttribute("aria-current");
      if (!current) continue;
      const list = $("example-list").getBoundingClientRect();
      const box = button.getBoundingClientRect();
      if (box.top < list.top || box.bottom > list.bottom) $("example-list").scrollTop += box.top - list.top - list.height / 3;
    }
  }
  function step(by) {
    if (now.at === null && by < 0) return;
    const at = now.at === null ? 0 : now.at + by;
    if (at < 0 || at >= now.total) return;
    now = { ...now, at }; // the next key counts from here, answered or not
    look({ at });
    const { top } = $("example-box").getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) $("example-box").scrollIntoView(); // begin where it begins
  }

  // The words looked for, marked without touching what a model wrote.
  function light(words) {
    if (!CSS.highlights) return;
    CSS.highlights.delete("looked-for");
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    if (!wanted.length) return;
    const ranges = [];
    const texts = document.createTreeWalker($("example"), NodeFilter.SHOW_TEXT);
    while (texts.nextNode() && ranges.length < 1000) {
      const node = texts.currentNode;
      if (!node.parentElement.closest(".text")) continue;
      const text = node.data.toLowerCase();
      if (text.length !== node.data.length) continue; // a letter whose small form is longer: places would be off
      for (const word of wanted)
        for (let i = text.indexOf(word); i >= 0; i = text.indexOf(word, i + word.length)) {
          const range = new Range();
          range.setStart(node, i);
          range.setEnd(node, i + word.length);
          ranges.push(range);
        }
    }
    CSS.highlights.set("looked-for", new Highlight(...ranges));
  }

  const differing = () => $("difference").getAttribute("aria-pressed") === "true";
  async function differ(on) {
    $("difference").setAttribute("aria-pressed", on);
    if (now.example === null) return;
    if (!on) return look({ example: now.example });
    const mine = newest;
    const answer = await server.difference({ of: where().of, example: now.example });
    if (mine !== newest || !heard(answer)) return;
    element.querySelectorAll("#example .answer-text").forEach((said, i) => (said.innerHTML = answer.marked[i]));
    light(query().words);
    reach();
  }

  // --- hands
  function choose(change) {
    note({ ...query(), ...change });
    return look({});
  }
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["show", "order"]) $(name).addEventListener("change", () => choose({ [name]: $(name).value }));
  $("slice").addEventListener("change", () => {
    const [tag, value] = $("slice").value ? JSON.parse($("slice").value) : [null, ""];
    choose({ tag, value });
  });
  let typing;
  $("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => choose({ words: $("search").value.trim() }), 250); // once the typing pauses
  });
  $("example-list").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) look({ at: Number(button.dataset.index) });
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("difference").addEventListener("click", () => differ(!differing()));
  $("copy-link").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      $("copy-link").textContent = $("announce").textContent = WORDS.copied;
    } catch {
      window.prompt("", location.href); // browsers give the clipboard only over TLS and to this machine
    }
  });
  $("reload").addEventListener("click", () => {
    opened = null;
    route();
  });

  $("evaluation").addEventListener("click", (event) => {
    const only = event.target.closest(".slice-examples");
    if (only) choose({ tag: only.dataset.tag, value: only.dataset.value });
    if (only || event.target.closest("#to-examples")) {
      $("example-browser").scrollIntoView();
      $("slice").focus({ preventScroll: true });
    }
    const column = event.target.closest("[data-sort] button")?.parentElement;
    if (column) sort(column);
  });
  function sort(column) {
    const rows = [...column.closest("table").querySelectorAll("tbody tr")];
    const words = column.dataset.sort === "text";
    const up = column.hasAttribute("aria-sort") ? column.getAttribute("aria-sort") === "descending" : words;
    for (const other of column.parentElement.children) other.removeAttribute("aria-sort");
    column.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = new Intl.Collator([], { numeric: true }).compare;
    const value = (row) => row.children[column.cellIndex].dataset.value;
    rows.sort((a, b) => (up ? 1 : -1) * (words ? order(value(a), value(b)) : value(a) - value(b)));
    rows[0]?.parentElement.append(...rows);
  }

  $("evaluations").addEventListener("change", () => {
    const two = element.querySelectorAll(".compare-choice:checked");
    for (const box of element.querySelectorAll(".compare-choice:not(:checked)")) box.disabled = two.length === 2;
    $("compare").setAttribute("aria-disabled", two.length !== 2);
  });
  $("evaluations").addEventListener("click", (event) => {
    const [of, beside] = [...element.querySelectorAll(".compare-choice:checked")].map((box) => box.value);
    if (event.target.closest("#compare") && beside) location.hash = hash({ of, beside });
  });

  try {
    $("keys-enabled").checked = localStorage.getItem("replay-keys") !== "off";
  } catch {} // a browser that keeps nothing
  $("keys-enabled").addEventListener("change", () => {
    try {
      localStorage.setItem("replay-keys", $("keys-enabled").checked ? "on" : "off");
    } catch {}
  });
  document.addEventListener("keydown", (event) => {
    if ($("example-browser").hidden || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target === $("search") && event.key === "Escape") {
      event.preventDefault(); // which would empty the field and tell nobody
      return $("example-list").focus();
    }
    if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
    const arrow = event.key.startsWith("Arrow");
    if (arrow && event.target.closest("#example, table")) return; // there they scroll what is too wide
    const act = {
      j: () => step(1),
      k: () => step(-1),
      ArrowRight: () => step(1),
      ArrowLeft: () => step(-1),
      d: () => differ(!differing()),
      "/": () => $("search").focus(),
    }[arrow ? event.key : event.key.toLowerCase()];
    if (!act || (!arrow && !$("keys-enabled").checked)) return;
    event.preventDefault();
    act();
  });

  window.addEventListener("hashchange", route);
  (async () => {
    // Which other pages there are for this person comes with the list, wherever the address leads.
    const answer = where().of ? await server.open({}) : null;
    if (answer?.pages) drawList(answer);
    route();
  })();
}
