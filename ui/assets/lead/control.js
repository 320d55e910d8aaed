// Whether models may accept, what audits say of that, and the alerts that stand. A press of a button is sent at once; then
// everything here is loaded anew. Sentences of audits and alerts come in English, as the figures do.
function createControlView({ $, t, formatNumber, checkAnswer, createTime }, server, reload) {
  const english = { lang: "en", dir: "ltr" };

  function showControl({ automation, alerts, silence_days: days, live }) {
    redraw($("automation-rows"), ...automation.map(createProject));
    redraw($("alert-rows"), ...alerts.map((alert) => createAlert(alert, days)));
    $("alerts-none").hidden = alerts.length > 0;
    $("live-learning").textContent = live;
    $("live-learning").hidden = !live;
  }
  function createProject({ project, state, reason, by, at, audits }) {
    const runs = state === "running";
    const said = { running: t("automation_running"), paused: t("state_paused"), stopped: t("automation_stopped") }[state];
    const button = createButton(runs ? t("pause") : t("resume"), project, { action: runs ? "pause" : "resume", project });
    const parts = [
      createElement("p", { className: "head" }, createElement("bdi", {}, project), " ", createElement("span", { className: runs ? "state" : "state paused" }, said), button),
    ];
    if (!runs) parts.push(createElement("p", { className: "notice" }, t("automation_halted")));
    if (at) parts.push(createElement("p", { className: "note" }, createTime(at), " · ", createElement("bdi", {}, by)));
    if (reason) parts.push(createElement("p", { className: "note", ...english }, reason));
    parts.push(createElement("p", { className: "note", ...english }, audits));
    return createElement("li", { data: { key: project } }, ...parts);
  }
  function createAlert({ seq, rule, message, at, seen_by: seenBy, silenced_until: silencedUntil }, days) {
    const head = [createElement("b", english, rule), " ", createElement("span", { className: "note" }, createTime(at))];
    const parts = [createElement("p", {}, ...head), createElement("p", english, message)];
    if (seenBy) parts.push(createElement("p", { className: "note" }, t("alert_seen_by", { name: seenBy })));
    if (silencedUntil) parts.push(createElement("p", { className: "note" }, t("alert_silenced"), " ", createTime(silencedUntil)));
    const buttons = [];
    if (!seenBy) buttons.push(createButton(t("alert_see"), rule, { action: "see", seq }));
    if (!silencedUntil) buttons.push(createButton(t("alert_silence", { n: formatNumber(days) }), rule, { action: "silence", seq }));
    parts.push(createElement("p", { className: "actions" }, ...buttons));
    return createElement("li", { data: { key: String(seq) }, className: seenBy ? "seen" : "" }, ...parts);
  }
  function createButton(text, about, data) {
    const button = createElement("button", { type: "button", className: "outlined", data: { ...data, key: data.action } }, text);
    button.setAttribute("aria-label", `${text}: ${about}`);
    return button;
  }

  $("control").addEventListener("click", async (event) => {
    const button = event.target.closest("[data-action]");
    if (!button || button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true"); // a second press while it is sent would undo nothing
    const { action, project, seq } = button.dataset;
    const item = button.closest("li").dataset.key;
    const answer = await { pause: () => server.automate({ project, runs: false }), resume: () => server.automate({ project, runs: true }), see: () => server.see({ seq: Number(seq) }), silence: () => server.silence({ seq: Number(seq) }) }[action]();
    button.removeAttribute("aria-disabled");
    const isDone = checkAnswer(answer);
    await reload();
    checkAnswer(answer); // a problem stays to be read
    if (isDone) focusAgain(item, action);
  });
  // The button that was pressed may be gone: the focus goes to the one that took its place.
  function focusAgain(item, action) {
    const row = [...$("control").querySelectorAll("li")].find(({ dataset }) => dataset.key === item);
    (row?.querySelector(`[data-action="${action}"]`) ?? row?.querySelector("[data-action]"))?.focus();
  }
  return { showControl };
}
