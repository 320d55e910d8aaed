// The tutorial: examples with an expected answer, shown before the first comparison until they are answered or left.
function createTutorial(page) {
  const { $, state, storage, i18n: { t, translate } } = page;
  const storedName = () => `tutorial_left.${$("rater-name").textContent}`;

  function begin(example) {
    state.tutorialExample = storage.get(storedName(), false) ? null : example;
  }
  function leave() {
    storage.set(storedName(), true);
    state.tutorialExample = null;
    page.cards.showNext();
  }
  // Send the answer to an example, and show the expected answer and why.
  function tryExample() {
    page.exchange("try_example", { id: state.card.id, mode: "tutorial", ...page.choices.toAnswer() }, (answer) => {
      $("verdict").hidden = false;
      $("verdict").classList.toggle("agreed", answer.agreed);
      $("verdict-title").textContent = t(answer.agreed ? "tutorial_agreed" : "tutorial_differed");
      const expected = answer.expected === "all_bad_said" && page.cards.isPair() ? "both_bad" : answer.expected;
      $("verdict-expected").textContent = t("tutorial_expected", { answer: t(expected) });
      $("bar").hidden = true; // nothing is left to choose
      $("verdict-why").innerHTML = answer.why; // escaped HTML of ui/markdown.py
      translate($("verdict"));
      $("verdict").focus();
      state.tutorialExample = answer.example;
    });
  }
  return { begin, leave, tryExample };
}
