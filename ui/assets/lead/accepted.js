// The comparisons that the model accepted: page by page, searched by words, and sent to raters (sending.js). What is shown
// stays in its place until the lead asks for something else.
function createAcceptedList({ element, $, t, formatNumber, language, checkAnswer, createTime }, server) {
  const PAGE_SIZE = 25;
  const percentFormat = new Intl.NumberFormat(language, { style: "percent" });
  const marginFormat = new Intl.NumberFormat(language, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  createPictureViewer(element, t);
  const sending = createSending((id) => redrawSend(id));

  let pages = [{ before: null, lookedAt: 0 }]; // where each page begins that was shown so far, the first one first
  let pageIndex = 0;
  let rows = []; // of this page, as the server gives them
  let total = 0, newest = 0; // of all that are accepted: how many, and the number of the newest decision
  let turning = Promise.resolve(); // while pages are being turned
  let isSample = false; // what is shown was drawn at random
  let latest = 0; // numbers the requests, so that an answer that comes too late is not shown

  // --- which page
  // Show a page; resolves to whether that worked. A search may take several calls, since texts are read one by one.
  async function showPage(index) {
    const request = ++latest;
    const query = readQuery();
    const begin = pages[index];
    let { before, lookedAt } = begin;
    const found = [];
    do {
      const answer = await server.accepted({ ...query, before, limit: PAGE_SIZE - found.length });
      if (request !== latest) return true; // something else was asked for meanwhile
      if (!checkAnswer(answer)) return false;
      found.push(...answer.rows);
      ({ before, total } = answer);
      lookedAt += answer.looked_at;
      if (query.words) $("accepted-range").textContent = t("searching", { ...describeSearch(lookedAt), n: formatNumber(found.length) });
    } while (before !== null && found.length < PAGE_SIZE);
    isSample = false;
    pageIndex = index;
    rows = found;
    pages = [...pages.slice(0, index + 1), ...(before === null ? [] : [{ before, lookedAt }])];
    if (index === 0 && !query.words) newest = Math.max(0, ...rows.map(({ seq }) => seq));
    draw(query, lookedAt);
    return true;
  }
  // Some drawn at random, for a lead who wants to see what is accepted as it is, and not only the newest.
  async function showSample() {
    const request = ++latest;
    replaceAddress({ ...readAddress(), words: "" });
    $("words").value = "";
    const answer = await server.accepted({ project: readQuery().project, limit: PAGE_SIZE, sample: true });
    if (request !== latest || !checkAnswer(answer)) return;
    isSample = true;
    ({ rows, total } = answer);
    pages = [{ before: null, lookedAt: 0 }];
    pageIndex = 0;
    draw(readQuery(), 0);
    $("announce").textContent = $("accepted-range").textContent;
  }
  const readQuery = () => ({ project: readAddress().project ?? null, words: readAddress().words ?? "" });
  function showFirstPage() {
    pages = [{ before: null, lookedAt: 0 }];
    $("words").value = readQuery().words;
    return showPage(0);
  }
  // Pages are turned one after another: where the second next one begins is known when the next one has come.
  function turnPage(by) {
    turning = turning.then(async () => {
      if (!pages[pageIndex + by]) return;
      await showPage(pageIndex + by);
      if ($("accepted").getBoundingClientRect().top < 0) $("accepted").scrollIntoView();
    });
  }
  const describeSearch = (lookedAt) => ({ searched: formatNumber(lookedAt), all: formatNumber(Math.max(total, lookedAt)) });

  function draw({ project, words }, lookedAt) {
    $("accepted").hidden = false;
    $("accepted-rows").replaceChildren(...rows.map(createAccepted));
    const first = pageIndex * PAGE_SIZE, last = first + rows.length;
    const range = { first: formatNumber(first + 1), last: formatNumber(last) };
    if (isSample) $("accepted-range").textContent = t("range_sample", { n: range.last, all: formatNumber(Math.max(total, last)) });
    else if (words) $("accepted-range").textContent = t(rows.length ? "range_found" : "range_not_found", { ...range, ...describeSearch(lookedAt) });
    else $("accepted-range").textContent = rows.length ? t("range", { ...range, all: formatNumber(Math.max(total, last)) }) : "";
    $("accepted-newer").hidden = true;
    $("accepted-sample").hidden = rows.length === 0 && !words;
    $("accepted-newest").hidden = !isSample;
    $("accepted-table").hidden = rows.length === 0;
    $("accepted-pages").hidden = pages.length < 2;
    // Not `disabled`, which would take the focus away from the button just pressed.
    $("previous").setAttribute("aria-disabled", String(pageIndex === 0));
    $("next").setAttribute("aria-disabled", String(!pages[pageIndex + 1]));
    const commands = ["rlhf-hitl train-reward", "rlhf-hitl route"].flatMap((command) => [" ", createElement("code", { dir: "ltr" }, command)]);
    const why = words ? [] : project ? [t("accepted_none_here")] : [t("accepted_none"), ...commands];
    $("accepted-none").replaceChildren(createElement("p", { className: "note" }, ...why));
    $("accepted-none").hidden = rows.length > 0 || why.length === 0;
  }

  // --- what is new while the page stays as it is
  const whatIsShown = () => ({ shown: rows.map(({ id }) => id), newest });
  function noteChanges({ total: count, newer, routes }) {
    total = count;
    for (const [id, route] of Object.entries(routes)) if (route !== "auto") sending.noteRoute(id, route);
    $("accepted-newer").hidden = newer === 0 || Boolean(readQuery().words);
    $("accepted-newer").textContent = t("accepted_newer", { n: newer < 100 ? formatNumber(newer) : `${formatNumber(100)}+` });
    if (rows.length === 0 && newer > 0 && !readQuery().words) showFirstPage(); // nothing that could move
  }

  // --- rows
  function createAccepted(accepted) {
    const { id, asked, chosen, rejected, project, model, margin, uncertainty, probability, at } = accepted;
    const title = [createElement("p", { dir: "auto" }, createElement("b", {}, asked)), ...createPictures(accepted.asked_images, "conversation")];
    if (chosen !== null) {
      const excerpts = ["chosen", "rejected"].map((name) => createExcerpt(name, name === "chosen" ? t("chosen") : t("rejected"), accepted[name], accepted[`${name}_images`]));
      title.push(createElement("div", { className: "answers" }, ...excerpts));
    }
    const row = createRow(
      id,
      title,
      createCell(t("project"), "wrapping", createElement("bdi", {}, project)),
      createCell(t("margin"), "numeric", formatOrNone(marginFormat, margin)),
      createCell(t("uncertainty"), "numeric", formatOrNone(marginFormat, uncertainty)),
      createCell(t("probability"), "numeric", formatOrNone(percentFormat, probability)),
      createCell(t("accepted_at"), "soft", createTime(at), ...(model ? [createElement("br"), createElement("bdi", { className: "model" }, model)] : [])),
      createCell("", "send", ...createSend(id, asked)),
    );
    return row;
  }
  function createExcerpt(className, said, text, images) {
    const tag = createElement("span", { className: `tag ${className}` }, said);
    const excerpt = createElement("p", { className: "excerpt" }, tag, " ", createElement("span", { dir: "auto" }, text));
    return createElement("div", { className: "answer", data: { title: said } }, excerpt, ...createPictures(images, "answer"));
  }
  // Images, small: each opens the viewer, beside those of the other answer.
  function createPictures(images, where) {
    if (images.length === 0) return [];
    const pictures = images.map(({ address, alt }, i) => {
      const place = { n: i + 1, of: images.length };
      const described = alt.trim() || (where === "answer" ? t("image_in_answer", place) : t("image_in_conversation", place));
      return createElement("button", { type: "button", className: "picture" }, createElement("img", { src: address, alt: described }));
    });
    return [createElement("p", { className: "pictures" }, ...pictures)];
  }
  const formatOrNone = (format, value) => (value === null ? "—" : format.format(value));
  // The button that sends a row's comparison, and beside it what becomes of it.
  function createSend(id, asked) {
    const { state, problem, exported } = sending.find(id);
    const isFree = state === "accepted" || state === "failed";
    const text = { sent: t("send_sent"), gone: t("send_gone"), failed: t("try_now") }[state] ?? t("send");
    const button = createElement("button", { type: "button", className: "outlined", data: { action: "send", key: "send" } }, text);
    button.setAttribute("aria-disabled", String(!isFree));
    button.setAttribute("aria-label", `${text}: ${asked}`);
    const parts = [button];
    if (state === "going") {
      const undo = createElement("button", { type: "button", className: "outlined", data: { action: "undo", key: "undo" } }, t("undo"));
      undo.setAttribute("aria-label", `${t("undo")}: ${asked}`);
      parts.push(createElement("span", { className: "note" }, t("send_going", { n: formatNumber(sending.secondsLeft(id)) })), undo);
    }
    if (state === "sending") parts.push(createElement("span", { className: "note" }, t("send_sending")));
    if (exported) parts.push(createElement("span", { className: "note failed", attributes: { role: "alert" } }, t("send_exported"), " ", createTime(exported)));
    if (state === "failed") parts.push(createElement("span", { className: "note failed", attributes: { role: "alert" } }, `${t("send_failed")} ${problem ?? t("no_answer")}`));
    return parts;
  }
  // Draw a row's button anew; the focus stays in the row.
  function redrawSend(id) {
    const row = rows.find((shown) => shown.id === id);
    const cell = [...$("accepted-rows").children].find(({ dataset }) => dataset.key === id)?.querySelector(".send");
    if (!row || !cell) return;
    const hadFocus = cell.contains(document.activeElement);
    redraw(cell, ...createSend(id, row.asked));
    if (hadFocus && !cell.contains(document.activeElement)) cell.querySelector("[data-action=send]").focus();
  }

  // --- listeners
  const TYPING_PAUSE = 250; // ms after which a search begins
  let typingTimer;
  $("words").placeholder = t("accepted_find_short");
  $("words").addEventListener("input", () => {
    clearTimeout(typingTimer);
    typingTimer = setTimeout(() => {
      replaceAddress({ ...readAddress(), words: $("words").value.trim() });
      showFirstPage();
    }, TYPING_PAUSE);
  });
  $("accepted-newer").addEventListener("click", async () => {
    await showFirstPage();
    $("accepted-rows").querySelector("[data-action=send]")?.focus();
  });
  $("accepted-sample").addEventListener("click", showSample);
  $("accepted-newest").addEventListener("click", async () => {
    await showFirstPage();
    $("accepted-sample").focus(); // the button that was pressed is gone
  });
  $("previous").addEventListener("click", () => turnPage(-1));
  $("next").addEventListener("click", () => turnPage(1));
  // A key that is held down presses once: after Undo the focus is on the button that sends.
  $("accepted-rows").addEventListener("keydown", (event) => event.repeat && event.key === "Enter" && event.preventDefault());
  $("accepted-rows").addEventListener("click", (event) => {
    const action = event.target.closest("[data-action]")?.dataset.action;
    const id = event.target.closest("tr")?.dataset.key;
    if (action === "send" && ["accepted", "failed"].includes(sending.find(id).state)) {
      sending.send(id);
      $("announce").textContent = t("send_announced", { n: formatNumber(sending.SECONDS) });
    }
    if (action === "undo" && sending.takeBack(id)) $("announce").textContent = t("send_undone");
  });
  return { showFirstPage, whatIsShown, noteChanges };
}
