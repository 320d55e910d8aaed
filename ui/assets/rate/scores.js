// Scores from 1 to 5 for each answer on each axis of the guideline.
function createScores(page) {
  const { element, $, state, i18n: { t } } = page;
  const SCORES = [1, 2, 3, 4, 5];

  const isOffered = () => state.card.mode !== "tutorial" && (state.guideline?.scores ?? "off") !== "off";
  const isRequired = () => state.guideline?.scores === "required";
  const isShown = () => $("open-scores").getAttribute("aria-expanded") === "true";

  // Offer the scores of the card's guideline; they are open where they are required or begun.
  function offer() {
    $("open-scores").hidden = !isOffered();
    toggle(isRequired() || Object.keys(state.scores).length > 0);
  }
  function toggle(wanted) {
    const show = wanted && isOffered();
    $("open-scores").setAttribute("aria-expanded", String(show));
    [...$("answers").children].forEach((panel, index) => {
      const axes = panel.querySelector(".axes");
      axes.hidden = !show;
      if (show) axes.replaceChildren(...state.guideline.axes.map((axis) => createRow(axis, index)));
    });
    if (show) update();
  }
  function createRow(axis, index) {
    const { letter } = state.card.answers[index];
    const row = createToggleGroup("axis", `${axis.title}, ${t("answer", { letter })}`, SCORES, (score) => ({
      label: `${axis.title}: ${score}/5`,
      onPress: () => setScore(axis, index, score),
    }));
    const title = document.createElement("span");
    title.textContent = axis.title;
    title.title = axis.description;
    row.dataset.axis = axis.id;
    row.prepend(title);
    return row;
  }
  // Give a score, or take it back where it was given before.
  function setScore(axis, index, score) {
    const axisScores = (state.scores[axis.id] ??= state.card.answers.map(() => null));
    axisScores[index] = axisScores[index] === score ? null : score;
    update();
    page.choices.updateSubmit();
    page.drafts.save();
  }
  const scoreOf = (row) => state.scores[row.dataset.axis]?.[row.closest(".answer").dataset.index] ?? null;
  function update() {
    for (const row of element.querySelectorAll(".axis"))
      for (const button of row.querySelectorAll("button")) {
        const score = Number(button.dataset.value);
        button.setAttribute("aria-pressed", String(score === scoreOf(row)));
        button.tabIndex = score === (scoreOf(row) ?? 1) ? 0 : -1; // a row is one stop of the Tab key
      }
  }
  // Focus the first row after `row` that has no score, or the conversation when there is none.
  function focusNextEmpty(row = null) {
    const rows = [...element.querySelectorAll(".axis")];
    const empty = rows.slice(rows.indexOf(row) + 1).find((other) => scoreOf(other) === null);
    (empty?.querySelector('[tabindex="0"]') ?? $("prompt")).focus();
  }
  // Open the scores and focus them. If they are open and `mayClose`, close them unless the guideline requires them.
  function open(mayClose = document.activeElement?.closest(".axis")) {
    if ($("open-scores").hidden) return;
    if (isShown() && mayClose && !isRequired()) {
      toggle(false);
      return $("prompt").focus();
    }
    if (!isShown()) toggle(true);
    focusNextEmpty();
  }
  // Handle a key while a row of scores has the focus. Returns whether the key had a meaning there.
  function handleKey(row, key) {
    const buttons = [...row.querySelectorAll("button")];
    if (/^[1-5]$/.test(key)) {
      if (scoreOf(row) !== Number(key)) buttons[key - 1].click();
      focusNextEmpty(row);
    } else if (key === "ArrowLeft" || key === "ArrowRight") {
      const isForward = (key === "ArrowRight") === (element.dir !== "rtl");
      buttons[(buttons.indexOf(document.activeElement) + (isForward ? 1 : 4)) % 5].focus();
    } else if (key === "Escape") $("prompt").focus();
    else return false;
    return true;
  }
  const areComplete = () => state.guideline.axes.every((axis) => state.scores[axis.id]?.every((score) => score !== null));

  return { offer, open, handleKey, areComplete };
}
