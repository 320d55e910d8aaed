// A rewrite of the better answer. The box begins with that answer's text and follows the choice until it is edited.
function createRewrite(page) {
  const { $, state } = page;
  const box = $("rewrite");
  let prefilled = ""; // what the page itself put into the box

  function open() {
    $("rewrite-panel").hidden = false;
    followBest();
    box.focus();
  }
  function restore(text) {
    box.value = text;
    prefilled = "";
    $("rewrite-panel").hidden = !text;
  }
  function followBest() {
    const isEdited = box.value && box.value !== prefilled;
    if ($("rewrite-panel").hidden || !state.card?.answers || isEdited) return;
    box.value = state.card.answers[page.choices.bestIndex()].text;
    prefilled = box.value; // as the box returns it: it may break lines in another way
  }
  // The rewrite, or "" while the box holds the answer as it was.
  const text = () => ($("rewrite-panel").hidden || box.value === prefilled ? "" : box.value);

  return { open, restore, followBest, text };
}
