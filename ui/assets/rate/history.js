// Undo, the rater's earlier answers, and changing one of them. Undo takes back an answer that is not sent yet, and
// otherwise shows the newest judgment as a card to be corrected: it counts until the correction arrives.
function createHistory(page) {
  const { $, state, i18n: { t, formatTime } } = page;

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
    page.exchange("history", {}, ({ judged }) => {
      const rows = [...page.outbox.listRefused().map(createRefusedRow), ...judged.map(createRow)];
      $("history-list").replaceChildren(...rows);
      $("history-empty").hidden = rows.length > 0;
      $("history").showModal();
    });
  }
  function createRow({ id, asked, said, at }) {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "history-entry";
    const question = document.createElement("bdi"), summary = document.createElement("span");
    question.textContent = asked;
    summary.textContent = `${t(said)} · ${formatTime(at)}`;
    summary.className = "note";
    button.append(question, summary);
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
  return { undo, revisit, leaveCorrection, open };
}
