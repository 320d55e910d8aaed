// The answers side by side: their panels, folding long ones, marking the words in which two of them differ, and the
// warning where some look the same and are not.
function createAnswerPanels(page) {
  const { element, $, state, i18n: { t, translate } } = page;

  function draw() {
    $("answers").replaceChildren(...state.card.answers.map(createPanel));
    page.phone.drawLetters();
  }
  function createPanel({ letter, html }, index) {
    const panel = document.createElement("section");
    panel.className = "answer";
    panel.dataset.index = index;
    panel.setAttribute("aria-label", t("answer", { letter }));
    panel.innerHTML = `<header><h2 class="letter">${letter}</h2></header><div class="answer-text">${html}</div><div class="axes" hidden></div>`;
    if (!page.cards.isPair()) panel.firstElementChild.append(createRankButtons(letter, index));
    return panel;
  }
  function createRankButtons(letter, index) {
    const { rankingBoard, choices } = page;
    return createToggleGroup("ranks", t("rank_of", { letter }), state.card.answers.map((_, i) => i + 1), (rank) => ({
      label: t("answer_rank", { letter, n: rank }),
      onPress() {
        choices.clear();
        rankingBoard.setRank(index, rankingBoard.ranks[index] === rank ? null : rank);
      },
    }));
  }
  // Say which answers look the same although they are not, and offer what tells them apart, unless that is hidden.
  function warnOfLookAlikes() {
    const { alike = [], hidden = [] } = state.card;
    const name = (groups) => ({ letters: groups.map((group) => page.i18n.formatList(group)).join("; ") });
    const said = [alike.length && t("alike", name(alike)), hidden.length && t("alike_hidden", name(hidden))].filter(Boolean);
    $("alike").hidden = said.length === 0;
    $("alike-text").textContent = said.join(" ");
    $("alike-raw").hidden = alike.length === 0;
    $("alike-difference").hidden = alike.length === 0 || !page.cards.isPair();
    if (said.length) page.notices.announce($("alike-text").textContent);
  }

  // Show which answers are chosen as better and which rank each of them has.
  function showRanks(betterIndices) {
    const { ranks, marked } = page.rankingBoard;
    [...$("answers").children].forEach((panel, index) => {
      panel.classList.toggle("better", betterIndices.includes(index));
      panel.classList.toggle("marked", !page.cards.isPair() && index === marked);
      for (const button of panel.querySelectorAll(".ranks button"))
        button.setAttribute("aria-pressed", String(ranks[index] === Number(button.dataset.value)));
    });
  }

  // Fold all answers at the same height when one of them is long, so that nothing hints at which one is.
  function fold(showAll = false) {
    const answers = $("answers");
    makeScrollable(element);
    const height = Math.max(320, Math.round(window.innerHeight * 0.9));
    answers.classList.remove("folded");
    const isLong = [...answers.children].some((panel) => panel.scrollHeight > height * 1.15);
    answers.style.setProperty("--fold", `${height}px`);
    answers.classList.toggle("folded", isLong && !showAll);
    page.phone.makeReachable();
    $("unfold").hidden = !isLong;
    const button = $("unfold").firstElementChild;
    button.firstElementChild.textContent = t(showAll ? "fold" : "show_all");
    button.setAttribute("aria-expanded", String(showAll));
  }
  const isFolded = () => $("answers").classList.contains("folded");
  const toggleFold = () => $("unfold").hidden || fold(isFolded());
  // Fold anew after a change of size; answers the rater has unfolded stay so.
  const refold = () => state.card?.answers && fold(!isFolded() && !$("unfold").hidden);

  function toggleDifference() {
    if (!page.cards.isPair() || state.isLoading) return;
    const { card } = state;
    if (card.showsDifference) return showTexts(null);
    page.exchange("difference", { id: card.id, mode: card.mode }, ({ marked }) => card === state.card && showTexts(marked));
  }
  function onRawView(isOn) {
    if (!state.card?.answers) return;
    if (state.card.showsDifference) showTexts(null);
    refold();
    page.notices.announce(t(isOn ? "raw_on" : "raw_off"));
  }
  // Show `marked`, the answers' HTML with the words marked that only one of them has; null shows the answers as they are.
  function showTexts(marked) {
    state.card.showsDifference = marked !== null;
    state.card.answers.forEach(({ html }, index) => {
      $("answers").children[index].querySelector(".answer-text").innerHTML = marked ? marked[index] : html; // of ui/markdown.py
    });
    translate($("answers"));
    $("open-difference").setAttribute("aria-pressed", String(state.card.showsDifference));
    refold();
    const areEqual = marked && !$("answers").querySelector("del, ins, .uncompared");
    if (areEqual) page.notices.notify(t("difference_none"), null, "transient");
    page.notices.announce(t(areEqual ? "difference_none" : marked ? "difference_on" : "difference_off"));
  }
  for (const name of ["load", "toggle"]) $("answers").addEventListener(name, refold, true); // of an image, of a block
  return { draw, warnOfLookAlikes, showRanks, fold, toggleFold, refold, toggleDifference, onRawView };
}
