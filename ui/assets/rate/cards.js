// Which card is shown, and its parts: the conversation, the answers, the controls that fit them.
function createCards(page) {
  const { element, $, state, i18n: { t, translate } } = page;

  // The guideline comes first where it is new to the rater, then the tutorial, then the comparisons.
  function showNext() {
    if (state.isInactive) return;
    if (state.toldGolds.length) return page.gold.show();
    page.notices.dismiss("transient");
    page.notices.dismiss("correction");
    state.card = null;
    const next = state.queue[0];
    state.guideline = state.guidelines[next?.guideline] ?? Object.values(state.guidelines).at(-1) ?? null;
    if (state.guideline && !state.guideline.acknowledged && (next || state.tutorialExample)) {
      showSection("none");
      return page.guideline.toggle(true);
    }
    if (state.tutorialExample) return show(state.tutorialExample);
    if (next) return show(state.queue.shift());
    show({ mode: page.outbox.count() > 0 ? "waiting" : "empty" });
  }
  function showSection(name) {
    for (const id of ["card", "empty", "unqualified", "other-tab", "waiting"]) $(id).hidden = id !== name;
    $("bar").hidden = name !== "card";
  }
  function show(card) {
    if (state.isInactive) return;
    state.card = card;
    state.guideline = state.guidelines[card.guideline] ?? state.guideline;
    $("verdict").hidden = true;
    $("card").dataset.id = card.id ?? "";
    if (card.mode === "empty" || card.mode === "waiting") {
      const isUnqualified = card.mode === "empty" && state.qualification !== null;
      showSection(isUnqualified ? "unqualified" : card.mode);
      for (const id of ["prompt", "answers"]) $(id).replaceChildren();
      if (isUnqualified) return showUnqualified();
      return page.notices.announce(card.mode === "empty" ? $("empty").querySelector("h2").textContent : t("waiting_title"));
    }
    showSection("card");
    for (const id of ["prompt", "answers", "rewrite"]) $(id).lang = card.lang || "";
    $("prompt").innerHTML = card.prompt; // escaped HTML of ui/markdown.py
    page.answerPanels.draw();
    page.answerPanels.warnOfLookAlikes();
    page.votes?.show();
    translate($("card"));
    showControls();
    page.answerPanels.fold();
    page.drafts.restore();
    if (card.mode === "correct") page.notices.notify(t("changing"), { label: t("leave_it"), run: page.history.leaveCorrection }, "correction");
    scrollToLastTurn();
    page.notices.announce(t(card.mode === "correct" ? "your_answer" : card.mode === "tutorial" ? "tutorial_next" : "next_comparison"));
  }
  // Say that the rater is paused or what they have not qualified for, and whom to ask.
  function showUnqualified() {
    const { state: standing, projects, ask } = state.qualification;
    const names = { projects: page.i18n.formatList(projects) };
    const isPaused = standing === "paused";
    const isFailed = standing === "failed";
    $("unqualified-title").textContent = t(isPaused ? "paused_title" : isFailed ? "unqualified_failed" : "unqualified_asked");
    $("unqualified-why").textContent = t(isPaused ? "paused_why" : isFailed ? "unqualified_failed_why" : "unqualified_asked_why", names);
    $("unqualified-ask").textContent = ask.length ? t("unqualified_ask", { names: page.i18n.formatList(ask, "disjunction") }) : t("unqualified_ask_any");
    page.notices.announce(`${$("unqualified-title").textContent}. ${$("unqualified-why").textContent}`);
  }
  // Show the controls for a pair or for more answers; a tutorial example can be neither skipped nor flagged.
  function showControls() {
    const isTutorial = state.card.mode === "tutorial";
    $("scale").hidden = !isPair();
    $("kwise").hidden = isPair();
    $("all-bad-label").textContent = t(isPair() ? "both_bad" : "all_bad");
    for (const name of ["skipped", "flagged"]) element.querySelector(`[data-choice="${name}"]`).hidden = isTutorial;
    $("tutorial").hidden = !isTutorial;
    if (isTutorial) $("tutorial-count").textContent = t("tutorial_count", state.card);
  }
  // A long conversation is scrolled to its last turn, which is the one answered.
  function scrollToLastTurn() {
    window.scrollTo(0, 0);
    const prompt = $("prompt");
    if (prompt.lastElementChild) prompt.scrollTop = prompt.lastElementChild.offsetTop - prompt.offsetTop - 16;
    prompt.focus({ preventScroll: true, focusVisible: state.usesKeyboard });
  }
  // Whether a card is shown, and not the guideline that has to be read first.
  const isShown = () => !$("card").hidden || !$("empty").hidden || !$("waiting").hidden || !$("unqualified").hidden;
  const isPair = () => state.card?.answers?.length === 2;

  return { showNext, show, showSection, isShown, isPair };
}
