// The dialog in which keys are looked up and changed, and the hints of keys on the buttons.
function createKeyDialog(page) {
  const { element, $, keymap, i18n: { t } } = page;
  let awaitedAction = null; // the action whose new key is waited for

  function update() {
    for (const hint of element.querySelectorAll("kbd[data-key]"))
      hint.dataset.shows = (keymap.keyOf(hint.dataset.key) ?? "").toUpperCase();
    for (const button of page.choices.buttons)
      button.setAttribute("aria-keyshortcuts", keymap.keyOf(button.dataset.choice).toUpperCase());
    $("key-list").replaceChildren(...keymap.actions.map(createRow));
    $("key-reset").hidden = !keymap.isChanged();
  }
  function createRow(action) {
    const row = document.createElement("div");
    const term = document.createElement("dt"), description = document.createElement("dd"), button = document.createElement("button");
    button.type = "button";
    button.className = "key";
    button.textContent = keymap.keyOf(action).toUpperCase();
    button.setAttribute("aria-label", t("key_change", { action: t(`key_${action}`), key: keymap.keyOf(action) }));
    button.addEventListener("click", () => {
      button.classList.add("listening");
      button.textContent = "…";
      awaitedAction = action;
    });
    button.addEventListener("blur", () => {
      if (awaitedAction !== action) return;
      awaitedAction = null;
      update();
    });
    description.textContent = t(`key_${action}`);
    term.append(button);
    row.append(term, description);
    return row;
  }
  const isAwaitingKey = (target) => awaitedAction !== null && Boolean(target.matches?.(".key"));
  // Take a key as the new one of the action that waits for it. The Tab key moves on instead.
  function takeKey(event) {
    if (event.key === "Tab") return;
    event.preventDefault();
    const action = awaitedAction;
    awaitedAction = null;
    if (keymap.isAssignable(event.key)) keymap.assign(action, event.key.toLowerCase());
    update();
    $("key-list").querySelectorAll(".key")[keymap.actions.indexOf(action)].focus();
  }
  function reset() {
    keymap.reset();
    update();
  }
  return { update, isAwaitingKey, takeKey, reset };
}
