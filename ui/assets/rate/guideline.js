// The guideline: beside the work where it was read before, and instead of it until it has been.
function createGuideline(page) {
  const { $, state, i18n: { translate } } = page;
  let focusedBefore = null; // gets the focus back when the guideline is closed

  const isAcknowledged = () => Boolean(state.guideline?.acknowledged);
  const isOpen = () => !$("guideline").hidden;

  function toggle(show = !isOpen()) {
    if (show && !isOpen()) focusedBefore = document.activeElement;
    if (!show && isOpen()) (focusedBefore?.isConnected ? focusedBefore : $("prompt")).focus({ preventScroll: true });
    $("guideline").hidden = !show;
    $("rating").classList.toggle("with-guideline", show && isAcknowledged());
    $("rating").classList.toggle("guideline-first", show && !isAcknowledged());
    $("open-guideline").setAttribute("aria-expanded", String(show));
    if (state.guideline) draw(show);
  }
  function draw(show) {
    $("guideline-version").textContent = state.guideline.version;
    $("guideline-text").innerHTML = state.guideline.html; // escaped HTML of ui/markdown.py
    translate($("guideline-text"));
    $("guideline-changed").hidden = $("guideline-agree").hidden = isAcknowledged();
    $("guideline-close").hidden = !isAcknowledged();
    if (!show) return;
    makeScrollable(page.element);
    $("guideline-title").focus();
  }
  // Open or close it for a rater who has read it; it cannot be closed before.
  function toggleRead() {
    if (isAcknowledged()) toggle();
  }
  function close() {
    if (!isOpen() || !isAcknowledged()) return false;
    toggle(false);
    return true;
  }
  function acknowledge() {
    page.exchange("acknowledge", { id: state.guideline.key }, () => {
      state.guideline.acknowledged = true;
      toggle(false);
      page.cards.showNext();
    });
  }
  return { toggle, toggleRead, close, acknowledge };
}
