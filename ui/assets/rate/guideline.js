// The guideline: beside the work where it was read before, and instead of it until it has been.
function createGuideline(page) {
  const { $, state, i18n: { t, translate } } = page;
  let focusedBefore = null; // gets the focus back when the guideline is closed

  const isAcknowledged = () => Boolean(state.guideline?.acknowledged);
  const isOpen = () => !$("guideline").hidden;
  const isFirst = () => isOpen() && !isAcknowledged();

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
    const { project, version, html } = state.guideline;
    $("guideline-of").textContent = t("guide_of", { project: isolate(project), version: isolate(version) });
    $("guideline-text").innerHTML = html; // escaped HTML of ui/markdown.py
    translate($("guideline-text"));
    $("guideline-changed").hidden = $("guideline-agree").hidden = isAcknowledged();
    $("guideline-close").hidden = !isAcknowledged();
    if (!show) return;
    makeScrollable(page.element);
    if (isAcknowledged()) return $("guideline-title").focus();
    window.scrollTo(0, 0);
    $("guideline-agree").focus({ preventScroll: true, focusVisible: true });
  }
  // A name keeps its own direction within a text.
  const isolate = (name) => `\u2068${name}\u2069`;
  // Open or close it for a rater who has read it; it cannot be closed before.
  function toggleRead() {
    if (isAcknowledged()) toggle();
  }
  function close() {
    if (!isOpen() || !isAcknowledged()) return false;
    toggle(false);
    return true;
  }
  // What is read once is read in every project and version with the same text.
  function acknowledge() {
    const { key, html } = state.guideline;
    page.exchange("acknowledge", { id: key }, () => {
      for (const guideline of Object.values(state.guidelines)) guideline.acknowledged ||= guideline.html === html;
      toggle(false);
      page.cards.showNext();
    });
  }
  return { toggle, toggleRead, close, isFirst, acknowledge };
}
