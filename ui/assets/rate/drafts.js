// Drafts: an answer that is not submitted yet survives a reload, a lost connection and an expired session. Browsers hold
// drafts of earlier versions: keep the shape { choice, reason, scores, ranks, rationale, rewrite, active }.
function createDrafts(page) {
  const { $, state, storage, i18n: { t } } = page;
  const DRAFTS_LIMIT = 8;

  const load = () => storage.get("drafts", {});
  function save() {
    const { card } = state;
    if (!card?.id || card.mode === "tutorial" || card.mode === "gold") return;
    const { [card.id]: _, ...others } = load();
    const draft = {
      choice: state.choice,
      reason: state.reason,
      scores: state.scores,
      ranks: page.cards.isPair() ? null : page.rankingBoard.ranks,
      rationale: $("rationale").value,
      rewrite: page.rewrite.text(),
      active: page.activeTime.seconds(),
    };
    storage.set("drafts", Object.fromEntries(Object.entries({ ...others, [card.id]: draft }).slice(-DRAFTS_LIMIT)));
  }
  function remove(id) {
    const { [id]: _, ...others } = load();
    storage.set("drafts", others);
  }
  // Fill the page with the draft of the card shown, or with the answer to be corrected, or with nothing.
  function restore() {
    const { card } = state;
    const draft = load()[card.id] ?? (card.answer ? { ...card.answer, choice: page.choices.fromAnswer(card.answer) } : {});
    state.card = null; // so that drawing the ranking board does not save an empty draft
    state.reason = draft.reason ?? null;
    state.scores = draft.scores ?? {};
    $("rationale").value = draft.rationale ?? "";
    page.rankingBoard.draw(card.answers.map(({ letter }) => letter), draft.ranks);
    state.card = card;
    page.rewrite.restore(draft.rewrite ?? "");
    page.scores.offer();
    showRequirements();
    page.choices.setChoice(draft.choice ?? null);
    page.activeTime.start(draft.active ?? 0);
  }
  // Show what the guideline requires; a tutorial example asks for the choice alone.
  function showRequirements() {
    const isTutorial = state.card.mode === "tutorial", isRequired = state.guideline?.rationale === "required";
    for (const id of ["rewrite-panel", "rationale-row", "open-rewrite", "undo"]) $(id).classList.toggle("not-offered", isTutorial);
    $("rationale").placeholder = t(isRequired ? "why_required" : "why");
    $("rationale").required = isRequired;
    if (!isTutorial && (isRequired || $("rationale").value)) page.phone.showMore();
  }

  for (const id of ["rationale", "rewrite"])
    $(id).addEventListener("input", () => {
      page.choices.updateSubmit();
      save();
    });
  return { save, remove, restore };
}
