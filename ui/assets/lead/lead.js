// The lead's page. `element` holds lead.html; `server` has open, figures and accepted, each a call to ui/lead.py; a fourth,
// escalate, is called by sending.js. view.js draws what the calls bring, but for the accepted comparisons: accepted.js.
function lead(element, server) {
  const dashboard = createDashboard(element, "lead");
  const { $, checkAnswer, showProjects, showUpdated, showAge, showLoading } = dashboard;
  const view = createLeadView(dashboard);
  const accepted = createAcceptedList(dashboard, server);
  const chosenProject = () => readAddress().project ?? null;

  async function load(isQuiet) {
    if (!isQuiet) showLoading();
    const project = chosenProject();
    const answer = await server.open({ project, ...accepted.whatIsShown() });
    if (chosenProject() !== project) return load(isQuiet);
    if (!checkAnswer(answer)) return false;
    showProjects(answer.projects);
    view.showQueue(answer);
    view.showPeople(answer);
    if (!isQuiet) return accepted.showFirstPage();
    accepted.noteChanges(answer.accepted);
    return true;
  }
  async function loadFigures() {
    const answer = await server.figures({});
    const isLoaded = checkAnswer(answer);
    if (isLoaded) view.showFigures(answer);
    showAge($("figures-updated"), isLoaded, answer?.at);
    return isLoaded;
  }
  const renewal = createRenewal(load, showUpdated);
  // The figures are computed from all that was ever judged, which takes long in a large store: nothing waits for them.
  const figuresRenewal = createRenewal(loadFigures, () => {});

  $("reload").addEventListener("click", () => {
    renewal.reload();
    figuresRenewal.reload();
  });
  $("project").addEventListener("change", () => {
    replaceAddress({ ...readAddress(), project: $("project").value });
    renewal.reload();
  });
  window.addEventListener("hashchange", renewal.reload);
  renewal.reload();
  figuresRenewal.reload();
}
