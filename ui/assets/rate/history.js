// Undo, the rater's earlier answers, and changing one of them. Undo takes back an answer that is not sent yet, and
// otherwise shows the newest judgment as a card to be corrected: it counts until the correction arrives.
function createHistory(page) {
  const { $, state, i18n: { t, formatNumber, formatTime } } = page;
  const SEARCH_DELAY = 250; // ms after the last letter
  let searchTimer = null, newestSearch = null;

  function undo() {
    const { card } = state;
    if (state.isLoading || card?.mode === "tutorial") return;
    page.drafts.save();
    if (card?.mode === "correct") return revisitOlder(card.id);
    const entry = state.lastSubmitted && page.outbox.has(state.lastSubmitted.id) ? page.outbox.takeBack() : null;
    if (!entry) {
      if (page.outbox.count() === 0) return revisit("");
      state.undoOnceSent = true; // the server may have it: it is changed as soon as the server confirms that
      return page.outbox.sendAll();
    }
    page.submission.showUnsent();
    if (card?.id) state.queue.unshift(card);
    page.cards.show(state.lastSubmitted); // its draft is still stored
  }
  // From one of the rater's judgments to the one before it.
  function revisitOlder(id) {
    page.exchange("history", {}, ({ judged }) => {
      const older = judged[judged.findIndex((judgment) => judgment.id === id) + 1];
      if (older) revisit(older.id);
      else page.notices.announce(t("history_none"));
    });
  }
  // Show one of the rater's judgments as a card to be corrected: the newest where `id` is "".
  function revisit(id) {
    page.exchange("revisit", { id }, (answer) => {
      if (state.card?.mode === "new") state.queue.unshift(state.card);
      page.cards.show(answer.card);
    });
  }
  function leaveCorrection() {
    page.drafts.remove(state.card.id);
    page.cards.showNext();
  }

  function open() {
    page.exchange("history", {}, (answer) => {
      $("history-words").value = "";
      $("history-words").placeholder = t("history_search");
      list(answer);
      $("history").showModal();
    });
  }
  // List the newest judgments in which all words of the search occur; an answer that a later search overtook is dropped.
  async function search() {
    const own = (newestSearch = {});
    const answer = await page.call("history", { words: $("history-words").value });
    if (own !== newestSearch || !$("history").open) return;
    if (answer.problem) $("history-count").textContent = page.describeProblem(answer.problem);
    else list(answer);
  }
  function list(answer) {
    newestSearch = null;
    const refused = isSearching() ? [] : page.outbox.listRefused();
    const rows = [...refused.map(createRefusedRow), ...answer.judged.map(createRow)];
    $("history-list").replaceChildren(...rows);
    $("history-count").textContent = rows.length === 0 && !isSearching() ? t("history_none") : describeCount(answer);
  }
  // How many were found, and what was left out.
  function describeCount({ judged, more, searched }) {
    const n = formatNumber(judged.length);
    if (!isSearching()) return more ? t("history_newest", { n }) : "";
    if (searched !== null) return t("history_searched", { found: n, n: formatNumber(searched) });
    return t(more ? "history_found_newest" : "history_found", { n });
  }
  const isSearching = () => $("history-words").value.trim() !== "";

  function createRow({ id, asked, said, ranking, reason, why, at }) {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "history-entry";
    const summary = [t(said), ranking && `\u2066${ranking}\u2069`, reason && t(`reason_${reason}`), formatTime(at)];
    const lines = { question: asked, note: summary.filter(Boolean).join(" · "), why: why && `“${why}”` };
    for (const [className, text] of Object.entries(lines)) {
      if (!text) continue;
      const line = document.createElement(className === "note" ? "span" : "bdi");
      line.className = className;
      line.textContent = text;
      button.append(line);
    }
    button.addEventListener("click", () => {
      $("history").close();
      revisit(id);
    });
    row.append(button);
    return row;
  }
  // An answer the server refused is not lost: it can be read here and given again by hand.
  function createRefusedRow({ asked, problem, body }) {
    const row = document.createElement("li");
    row.className = "history-entry refused";
    for (const text of [asked, page.describeProblem(problem), body.rationale, body.rewrite].filter(Boolean)) {
      const paragraph = document.createElement("bdi");
      paragraph.textContent = text;
      row.append(paragraph);
    }
    return row;
  }

  $("history-words").addEventListener("input", () => {
    clearTimeout(searchTimer);
    searchTimer = setTimeout(search, SEARCH_DELAY);
  });
  return { undo, revisit, leaveCorrection, open };
}
