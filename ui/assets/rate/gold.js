// Golds that were answered: the card comes back with the right answer and why, where the project tells raters. It is shown
// at once where the next answer is not begun yet, and else before the card after that.
function createGold(page) {
  const { $, state, i18n: { t, translate } } = page;

  // Keep what the server told of a gold, and show it if nothing is interrupted by that. Returns whether it is shown.
  function receive(told) {
    if (!told) return false;
    state.toldGolds.push(told);
    if (state.isInactive || state.undoOnceSent || isBegun() || !page.cards.isShown()) return false;
    if (state.card?.mode === "new") {
      page.drafts.save(); // the time spent on it
      state.queue.unshift(state.card);
    }
    page.cards.showNext();
    return true;
  }
  // Whether the rater has begun to answer the card on the screen, or does something else on the page.
  function isBegun() {
    const { card, choice } = state;
    if (!card?.answers) return false;
    const isWriting = document.activeElement?.matches("textarea, input") || $("rationale").value || page.rewrite.text();
    const ranksSome = !page.cards.isPair() && page.rankingBoard.countRanked() > 0;
    return card.mode !== "new" || choice !== null || ranksSome || Boolean(isWriting) || Boolean(page.element.querySelector("dialog[open]"));
  }
  // Show the first of what was told: the card as it was answered, without controls, and the right answer below.
  function show() {
    const { card, agreed, expected, ranking, why } = state.toldGolds.shift();
    page.cards.show(card);
    $("verdict-title").textContent = t(agreed ? "gold_agreed" : "gold_differed");
    const named = expected === "all_bad_said" && page.cards.isPair() ? "both_bad" : expected;
    $("verdict-expected").textContent = t("gold_expected", { answer: ranking ? `\u2066${ranking}\u2069` : t(named) });
    $("verdict-why").innerHTML = why; // escaped HTML of ui/markdown.py
    $("verdict").classList.toggle("agreed", agreed);
    $("verdict").hidden = false;
    $("bar").hidden = true; // nothing is left to choose
    translate($("verdict"));
    $("verdict").scrollIntoView({ block: "nearest" });
    $("verdict").focus({ preventScroll: true });
    page.notices.announce(`${$("verdict-title").textContent}. ${$("verdict-expected").textContent}`);
  }
  return { receive, show };
}
