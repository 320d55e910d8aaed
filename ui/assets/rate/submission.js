// Submitting an answer: into the outbox, on to the next card, and what happens when the server has confirmed or refused it.
function createSubmission(page) {
  const { $, state, pace, i18n: { t } } = page;

  function submit() {
    if (state.isLoading || state.isInactive) return;
    if (!$("verdict").hidden) return page.cards.showNext(); // the tutorial's explanation was read
    const missing = page.choices.findMissing();
    if (missing !== null) return state.card?.answers && page.choices.showMissing(missing);
    if (state.card.mode === "tutorial") return page.tutorial.tryExample();
    page.drafts.save();
    state.undoOnceSent = false;
    state.lastSubmitted = state.card;
    const body = createBody();
    const breakReason = pace.record(body.active_seconds, state.choice);
    page.outbox.add({ body, asked: state.card.asked });
    showUnsent();
    page.cards.showNext();
    if (breakReason) suggestBreak(breakReason);
  }
  // The answer as ui/rating_service.py takes it.
  function createBody() {
    return {
      id: state.card.id,
      mode: state.card.mode,
      ...page.choices.toAnswer(),
      scores: state.scores,
      rationale: $("rationale").value,
      rewrite: page.rewrite.text(),
      active_seconds: page.activeTime.seconds(),
    };
  }
  function suggestBreak(reason) {
    if (page.notices.isShown() && !page.notices.isShown("transient")) return; // that notice matters more
    pace.reset();
    page.notices.notify(t(`break_${reason}`), { label: t("break_take"), run: () => $("break").showModal() }, "transient");
  }

  // The outbox cannot send at present.
  function onWaiting(kind) {
    showUnsent();
    if (kind === "signed_out")
      return page.notices.notify(t("waiting_signed_out"), { label: t("sign_in"), run: page.openSignIn });
    if (kind === "role") return page.showRole();
    const text = t(kind === "offline" ? "waiting_offline" : "waiting_server");
    page.notices.notify(text, { label: t("try_now"), run: () => page.outbox.sendAll() }, "connection");
  }
  // The server has answered to one entry of the outbox; `waitingCount` others still wait.
  function onSent(entry, answer, waitingCount) {
    showUnsent();
    if (answer.problem) return onRefused(entry, answer.problem);
    const { card } = state;
    page.drafts.remove(entry.body.id);
    // If the same card is open again, what is changed on it now corrects the judgment just made.
    if (card?.id === entry.body.id) card.id = answer.judgment;
    if (waitingCount === 0) page.notices.dismiss("connection");
    if (answer.outcome === "surplus") page.notices.notify(nameEntry(entry, t("outcome_surplus")));
    if (answer.outcome === "repeated") page.notices.notify(nameEntry(entry, t("outcome_repeated")));
    page.receive(answer);
    const showsGold = page.gold.receive(answer.gold);
    if (state.undoOnceSent && waitingCount === 0) {
      state.undoOnceSent = false;
      return page.history.revisit(answer.judgment);
    }
    if (showsGold) return;
    if (!card || card.mode === "waiting" || (card.mode === "empty" && state.queue.length)) page.cards.showNext();
  }
  // The draft of a refused answer stays; the notice names its question, since another card may be shown by now.
  function onRefused(entry, problem) {
    const { card } = state;
    const skip = () => {
      page.drafts.remove(card.id);
      page.cards.showNext();
    };
    const action = entry.body.id === card?.id ? { label: t("next"), run: skip } : null;
    page.notices.notify(nameEntry(entry, page.describeProblem(problem)), action);
    state.undoOnceSent = false;
    if (card?.mode === "waiting") page.cards.showNext();
  }
  // A text about an entry, after its question; the isolates keep the direction of the question to itself.
  const nameEntry = (entry, text) => `“\u2068${entry.asked}\u2069”: ${text}`;

  function showUnsent() {
    const count = page.outbox.count();
    $("rating").dataset.unsent = count;
    $("unsent").hidden = count === 0 || !page.notices.isShown("connection");
    $("unsent").textContent = t("unsent", { n: page.i18n.formatNumber(count) });
  }
  return { submit, onWaiting, onSent, showUnsent };
}
