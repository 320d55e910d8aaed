// What a lead does with what was found: each asks once, in a dialog, and says what became of it.
function createDataActions({ $, formatNumber, checkAnswer }, server, whatIsMeant, onDone) {
  const ACTIONS = {
    raters: ["Send to raters", "Each gets one more vote, before all others.", "Send"],
    adjudication: ["Send to adjudication", "A lead decides each; raters are asked no more.", "Send"],
    rater: ["Assign to a rater", "They are reserved for one rater, first in line.", "Assign"],
    save: ["Save as a slice", "The filter is kept by name, for reports, evaluations, exports and routing.", "Save"],
  };
  const form = $("ask-form");
  let action = null, meant = null;

  function ask(name) {
    action = name;
    meant = whatIsMeant(name);
    const [title, what, label] = ACTIONS[name];
    const n = meant.ids ? formatNumber(meant.ids.length) : `${meant.isExact ? "" : "about "}${formatNumber(meant.total)}`;
    $("ask-title").textContent = title;
    $("ask-what").textContent = name === "save" ? what : `${n} ${meant.ids?.length === 1 ? "comparison" : "comparisons"}. ${what}`;
    $("ask-do").textContent = label;
    $("ask-rater").hidden = name !== "rater";
    $("ask-name").hidden = $("ask-description").hidden = name !== "save";
    form.elements.name.required = name === "save";
    form.elements.rater.required = name === "rater";
    checkAnswer({}, $("ask-notice"));
    $("ask").showModal();
  }
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if ($("ask-do").getAttribute("aria-disabled") === "true") return;
    $("ask-do").setAttribute("aria-disabled", "true");
    const { filter, ids } = meant;
    const answer =
      action === "save"
        ? await server.save({ filter, name: form.elements.name.value, description: form.elements.description.value })
        : await server.send({ to: action, filter: ids ? {} : filter, ids: ids ?? null, rater: action === "rater" ? form.elements.rater.value : "" });
    $("ask-do").removeAttribute("aria-disabled");
    if (!checkAnswer(answer, $("ask-notice"))) return;
    $("ask").close();
    $("announce").textContent = $("waiting").textContent = answer.said;
    onDone(answer.said);
  });
  $("ask-cancel").addEventListener("click", () => $("ask").close());
  for (const box of [$("actions"), $("opened-actions")])
    box.addEventListener("click", ({ target }) => target.dataset.action && ask(target.dataset.action));
  return { setRaters: (raters) => fillSelect(form.elements.rater, [["", "choose…"], ...raters.map(({ name, paused }) => [name, paused ? `${name} (paused)` : name])]) };
}
