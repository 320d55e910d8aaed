// What the rater chooses: a strength of preference for a pair, or one of the choices that stand instead of a ranking, with
// its reason. And whether the answer is complete.
function createChoices(page) {
  const { element, $, state, i18n: { t } } = page;
  const INSTEAD_OF_RANKING = ["all_bad", "skipped", "flagged"];
  const REASONS = { skipped: ["subject", "language", "unclear", "other"], flagged: ["unsafe", "broken", "wrong_language", "private"] };
  const buttons = [...element.querySelectorAll("[data-choice]")];

  function choose(name) {
    setChoice(name);
    page.drafts.save();
  }
  function setChoice(name) {
    state.choice = name;
    if (!REASONS[name]?.includes(state.reason)) state.reason = null;
    showReasons();
    showChoice();
    updateSubmit();
  }
  function clear() {
    if (state.choice !== null) setChoice(null);
  }
  function showReasons() {
    const codes = REASONS[state.choice] ?? [];
    $("reasons").hidden = codes.length === 0;
    if (codes.length === 0) return;
    const question = document.createElement("span");
    question.textContent = t(`${state.choice}_why`);
    const group = createToggleGroup("reason-choices", t(`${state.choice}_why`), codes, (code) => ({
      text: `${codes.indexOf(code) + 1} ${t(`reason_${code}`)}`,
      onPress: () => chooseReason(code),
    }));
    $("reasons").replaceChildren(question, group);
    showReason();
  }
  function chooseReason(code) {
    state.reason = code;
    showReason();
    page.drafts.save();
  }
  function showReason() {
    for (const button of $("reasons").querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(button.dataset.value === state.reason));
    updateSubmit();
  }
  // Choose the reason of a digit key. Returns whether the key stands for one.
  function chooseReasonByKey(key) {
    const code = /^[1-9]$/.test(key) ? REASONS[state.choice]?.[key - 1] : undefined;
    if (!code) return false;
    chooseReason(code);
    return true;
  }
  // Choose by the key of a choice; where answers are ranked, the same key once more returns to the ranking.
  function chooseByKey(name) {
    const button = buttons.find(({ dataset }) => dataset.choice === name);
    if (button.hidden || !(page.cards.isPair() || INSTEAD_OF_RANKING.includes(name))) return;
    choose(!page.cards.isPair() && state.choice === name ? null : name);
  }

  // Show the choice or the ranking on the buttons and on the answers.
  function showChoice() {
    if (!state.card?.answers) return;
    page.rewrite.followBest();
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.choice === state.choice));
    $("kwise").classList.toggle("overridden", state.choice !== null); // the ranking is kept in case the choice was a slip
    page.answerPanels.showRanks(betterIndices());
    page.phone.describeChoice();
  }
  // The indices of the answers chosen as better than the others.
  function betterIndices() {
    if (page.cards.isPair()) return state.choice?.length === 2 ? ["AB".indexOf(state.choice[0])] : [];
    return state.choice === null ? page.rankingBoard.bestIndices() : [];
  }
  // The index of the answer a rewrite begins with: the best one, or the first.
  function bestIndex() {
    return (page.cards.isPair() ? betterIndices() : page.rankingBoard.bestIndices())[0] ?? 0;
  }
  // What keeps the answer from being submitted, as a key of the translations; null when it is complete.
  function findMissing() {
    const { card, choice, guideline } = state;
    if (!card?.answers) return "choose";
    if (choice === "flagged") return state.reason ? null : "choose_reason";
    if (INSTEAD_OF_RANKING.includes(choice)) return null;
    if (page.cards.isPair() && choice === null) return "choose";
    if (!page.cards.isPair() && page.rankingBoard.countRanked() < 2) return "rank_two";
    if (card.mode === "tutorial") return null;
    if (guideline?.rationale === "required" && !$("rationale").value.trim()) return "why_required";
    if (guideline?.scores === "required" && !page.scores.areComplete()) return "score_all";
    return null;
  }
  // Say what the answer lacks and move the focus to where it can be given.
  function showMissing(key) {
    if (key === "score_all") page.scores.open();
    if (key === "why_required") focusRationale();
    $("missing").textContent = t(key);
    $("missing").hidden = false;
  }
  function focusRationale() {
    page.phone.showMore();
    $("rationale").focus();
  }
  // The submit button stays usable while something is missing, for then it says what.
  function updateSubmit() {
    $("submit").setAttribute("aria-disabled", String(state.isLoading || findMissing() !== null));
    $("missing").hidden = true;
    for (const id of ["undo", "undo-empty"]) $(id).disabled = state.isLoading;
  }
  // The choice as the server takes it.
  function toAnswer() {
    const { choice } = state;
    if (INSTEAD_OF_RANKING.includes(choice)) return { verdict: choice, reason: state.reason };
    if (!page.cards.isPair()) return { verdict: "ranked", ranks: page.rankingBoard.ranks };
    if (choice === "tie") return { verdict: "ranked", ranks: [1, 1] };
    return { verdict: "ranked", ranks: choice[0] === "A" ? [1, 2] : [2, 1], strength: Number(choice[1]) };
  }
  // The data-choice of an answer the server sent back; null for a ranking of more than two.
  function fromAnswer({ verdict, ranks, strength }) {
    if (verdict !== "ranked") return verdict;
    if (!page.cards.isPair()) return null;
    return ranks[0] === ranks[1] ? "tie" : `${ranks[0] < ranks[1] ? "A" : "B"}${strength ?? 1}`;
  }

  for (const button of buttons)
    button.addEventListener("click", (event) => {
      if (event.detail > 2) return; // the rest of a burst of clicks was meant for the comparison before
      if (state.choice === button.dataset.choice) page.submission.submit();
      else choose(button.dataset.choice);
    });
  return {
    buttons, choose, setChoice, clear, chooseByKey, chooseReasonByKey, showChoice, bestIndex, findMissing, showMissing,
    focusRationale, updateSubmit, toAnswer, fromAnswer,
  };
}
