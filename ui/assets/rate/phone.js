// What is different on a phone: answers stand beside each other and are swiped, a tap on one chooses it, and what is seldom
// needed is unfolded by a button. The styles for it begin at a width of 760 pixels; a tap is one on every screen.
function createPhone(page) {
  const { $, state, storage, i18n: { t } } = page;
  let pointerType = "";

  // Draw the letters by which an answer is brought into view. Those of the answers in view are marked.
  function drawLetters() {
    $("answer-letters").replaceChildren(...state.card.answers.map(createLetter));
    observer.disconnect();
    for (const panel of $("answers").children) observer.observe(panel);
    $("answers").scrollTo({ left: 0, behavior: "instant" });
    showSideBySide(storage.get("side_by_side", false));
  }
  function createLetter({ letter }, index) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = letter;
    button.setAttribute("aria-label", t("answer", { letter }));
    button.addEventListener("click", () => bringIntoView(index));
    return button;
  }
  function bringIntoView(index) {
    const box = $("answers").getBoundingClientRect(), panel = $("answers").children[index].getBoundingClientRect();
    $("answers").scrollBy({ left: panel.left + panel.width / 2 - box.left - box.width / 2 });
  }
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, intersectionRatio } of entries)
        $("answer-letters").children[target.dataset.index]?.setAttribute("aria-current", String(intersectionRatio > 0.6));
    },
    { root: $("answers"), threshold: [0, 0.6, 0.7] },
  );
  function showSideBySide(isWanted) {
    $("answers").classList.toggle("side-by-side", isWanted);
    $("side-by-side").setAttribute("aria-pressed", String(isWanted));
  }
  function toggleSideBySide() {
    storage.set("side_by_side", !storage.get("side_by_side", false));
    showSideBySide(storage.get("side_by_side", false));
    page.answerPanels.refold();
  }
  // What can be swiped can also be scrolled with the arrow keys.
  function makeReachable() {
    const answers = $("answers");
    answers.toggleAttribute("tabindex", false);
    if (answers.scrollWidth > answers.clientWidth) answers.tabIndex = 0;
  }

  // Of two, a tap chooses the better answer, and further taps on it say by how much. Of more, each tap gives the next rank,
  // and a tap on a ranked answer takes its rank away.
  function chooseByTap(index) {
    const { choice } = state, { ranks } = page.rankingBoard;
    if (page.cards.isPair()) {
      const letter = "AB"[index], isChosen = choice?.length === 2 && choice[0] === letter;
      return page.choices.choose(letter + (isChosen ? (Number(choice[1]) % 3) + 1 : 1));
    }
    page.choices.clear();
    page.rankingBoard.setRank(index, ranks[index] === null ? Math.min(ranks.length, Math.max(0, ...ranks) + 1) : null);
  }
  // Say in words what is chosen, since the buttons show signs here; before, say what a tap does.
  function describeChoice() {
    if (state.choice === null) $("chosen").textContent = t(page.cards.isPair() ? "tap_how" : "tap_many");
    else if (state.choice === "all_bad") $("chosen").textContent = $("all-bad-label").textContent;
    else $("chosen").textContent = t(`key_${state.choice}`);
  }

  function toggleMore(show = $("open-more").getAttribute("aria-expanded") === "false") {
    $("open-more").setAttribute("aria-expanded", String(show));
    $("bar").classList.toggle("with-more", show);
  }

  $("answers").addEventListener("pointerdown", (event) => (pointerType = event.pointerType));
  $("answers").addEventListener("click", ({ target }) => {
    const panel = target.closest(".answer");
    const isTap = pointerType === "touch" && panel && !target.closest("button, a, summary") && !String(getSelection());
    if (isTap && !$("bar").hidden) chooseByTap(Number(panel.dataset.index));
  });
  return { drawLetters, toggleSideBySide, makeReachable, describeChoice, toggleMore, showMore: () => toggleMore(true) };
}
