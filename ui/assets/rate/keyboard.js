// What a key does: in a text field, in a row of scores, on the ranking board, and everywhere else by the keymap.
function listenToKeys(page, actions) {
  const { element, $, state } = page;
  const AVAILABLE_WITHOUT_CARD = ["undo", "history", "guide", "help"];

  function handleInTextField(event) {
    if (event.key === "Escape") event.target.blur();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.target.closest("dialog")) {
      event.preventDefault();
      page.submission.submit();
    }
  }
  // Do what a key stands for on the page. Returns whether it stands for anything.
  function handleOnPage(key, target) {
    const hasAnswers = Boolean(state.card?.answers) && !state.isInactive;
    const row = target.closest?.(".axis");
    if (row && page.scores.handleKey(row, key)) return true;
    if (key === "Escape" && page.guideline.close()) return true;
    if (key === "Escape" && state.card?.mode === "correct") {
      page.history.leaveCorrection();
      return true;
    }
    if (key === "Enter" && !target.closest?.("button, a, summary")) {
      if (page.guideline.isFirst()) page.guideline.acknowledge();
      else page.submission.submit();
      return true;
    }
    if (key === "Enter" || key === " ") return false; // they press the button that has the focus
    if (hasAnswers && page.choices.chooseReasonByKey(key)) return true;
    const scrollsTarget = target.closest?.("pre, table, .math") && !/^[0-9]$/.test(key);
    if (hasAnswers && !page.cards.isPair() && !scrollsTarget && page.rankingBoard.handleKey(key)) {
      page.choices.clear();
      return true;
    }
    const action = page.keymap.actionOf(key);
    if (!action || (!hasAnswers && !AVAILABLE_WITHOUT_CARD.includes(action))) return false;
    if (actions[action]) actions[action]();
    else page.choices.chooseByKey(action);
    return true;
  }

  document.addEventListener("pointerdown", () => (state.usesKeyboard = false), true);
  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    state.usesKeyboard = true;
    const { target } = event;
    if (page.keyDialog.isAwaitingKey(target)) return page.keyDialog.takeKey(event);
    if (target.matches?.("textarea, input, select, [contenteditable]")) return handleInTextField(event);
    if (event.repeat || element.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ((event.ctrlKey || event.metaKey) && key === "z") {
      event.preventDefault();
      return page.history.undo();
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (handleOnPage(key, target)) event.preventDefault();
  });
}
