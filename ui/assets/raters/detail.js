// The dialog about one rater: sessions, qualifications, what was found, and overruling it.
// `overrule` sends the reason and resolves to whether that worked; `onClose` is given the rater.
function createDetailDialog({ $, t, formatNumber, createTime, checkAnswer }, view, server, overrule, onClose) {
  const form = $("overrule-form");
  let rater = null; // whom the dialog is about

  async function open(opened, project, wantsToOverrule) {
    rater = opened;
    $("detail-name").textContent = rater.name;
    $("detail-notice").hidden = true;
    form.hidden = !(rater.mine && rater.findings.length);
    form.reset();
    const answer = await server.detail({ id: rater.id, project });
    const isKnown = checkAnswer(answer, $("detail-notice"));
    if (isKnown) show(answer);
    if (!$("detail").open) $("detail").showModal();
    if (wantsToOverrule && !form.hidden) form.because.focus();
  }
  function show({ sessions, sessions_left_out: leftOut, qualifications, findings }) {
    $("sessions").hidden = sessions.length === 0;
    showSessions(sessions, leftOut);
    $("qualifications").hidden = qualifications.length === 0;
    redraw($("qualification-list"), ...qualifications.map(createQualification));
    redraw($("finding-list"), ...findings.map(createFinding));
    $("no-findings").hidden = findings.length > 0;
  }
  function showSessions(sessions, leftOut) {
    const agreement = sessions.map((session) => session.agreement);
    const seconds = sessions.map((session) => (session.seconds === null ? null : { value: session.seconds }));
    const describe = (name, figures, format) =>
      `${name}: ${figures.map((figure) => (figure ? format.format(figure.value) : "—")).join(", ")}`;
    const highest = Math.max(1, ...seconds.map((figure) => figure?.value ?? 0));
    const plots = [];
    if (agreement.some(Boolean)) {
      const label = describe(t("raters_agreement"), agreement, view.percentFormat);
      plots.push(createElement("p", { className: "note" }, t("raters_agreement")));
      plots.push(createTimeLine(agreement, [0, 1], "agreement", label, (at) => view.percentFormat.format(at)));
    }
    if (seconds.some(Boolean)) {
      const label = describe(t("raters_seconds"), seconds, view.secondsFormat);
      plots.push(createElement("p", { className: "note" }, t("raters_seconds")));
      plots.push(createTimeLine(seconds, [0, highest], "seconds", label, (at) => view.secondsFormat.format(at)));
    }
    redraw($("session-plots"), ...plots);
    const [first, last] = [sessions[0], sessions.at(-1)];
    const span = first ? [createTime(first.at), " – ", createTime(last.at), ". "] : [];
    redraw($("sessions-note"), ...span, leftOut ? t("raters_sessions_left_out", { n: formatNumber(leftOut) }) : "");
  }
  function createQualification({ project, state, answered, golds }) {
    const counts = t("raters_qualification_counts", { answered: formatNumber(answered), golds: formatNumber(golds) });
    return createElement("li", {}, createElement("span", {}, createElement("bdi", {}, project), ": ", t(`qualification_${state}`)), createElement("span", { className: "note" }, counts));
  }
  function createFinding({ action, reason, example, at, overruled_at: overruledAt, overruled_by: by, overruled_because: because }) {
    const english = { lang: "en", dir: "ltr" };
    const title = createElement("span", {}, createElement("span", { className: `finding ${overruledAt ? "" : action}` }, overruledAt ? t("raters_overruled") : t(`raters_action_${action}`)), createTime(at));
    const parts = [title, createElement("span", english, reason)];
    if (example) parts.push(createElement("q", { className: "note", dir: "auto" }, example));
    if (overruledAt)
      parts.push(createElement("span", { className: "note" }, t("raters_overruled_by", { name: by }), " ", createTime(overruledAt), ": ", createElement("bdi", {}, because)));
    return createElement("li", {}, ...parts);
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await overrule(rater, form.because.value, $("detail-notice"))) $("detail").close();
  });
  $("detail").addEventListener("close", () => onClose(rater));
  return { open };
}
