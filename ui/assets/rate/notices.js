// The one notice at the top of the page, and what is announced to screen readers only.
//
// Kinds of notices: "connection" goes away when the server answers, "transient" with the next card, "correction" with the
// correction it is about; one without a kind stays until it is closed.
function createNotices({ $, i18n: { t } }) {
  // Show a notice; `action` is a button in it: { label, run }.
  function notify(text, action, kind = "") {
    const notice = $("notice");
    const close = kind === "connection" || kind === "correction" ? null : { label: t("close"), run: () => dismiss() };
    notice.dataset.kind = kind;
    notice.replaceChildren(document.createTextNode(text), ...[action, close].filter(Boolean).map(createButton));
    notice.hidden = false;
  }
  function createButton({ label, run }) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", () => run());
    return button;
  }
  // Hide the notice: whatever it is, or only if it is of one kind.
  function dismiss(kind) {
    if (!kind || $("notice").dataset.kind === kind) $("notice").hidden = true;
  }
  function isShown(kind) {
    return !$("notice").hidden && (!kind || $("notice").dataset.kind === kind);
  }
  function announce(text) {
    $("announce").textContent = text;
  }
  return { notify, dismiss, isShown, announce };
}
