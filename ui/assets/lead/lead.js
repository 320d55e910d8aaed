// The lead's page. `element` holds lead.html; `server` has open, control, figures, quality and accepted, each a call to
// ui/lead.py; what changes something is called by control.js and sending.js. view.js draws what the calls bring, but for plots (figures.js), groups and
// changes (groups.js), the threshold curve (threshold.js), how raters agree (quality.js) and the accepted comparisons (accepted.js).
function lead(element, server) {
  const dashboard = createDashboard(element, "lead");
  const { $, checkAnswer, showProjects, showUpdated, showAge, showLoading } = dashboard;
  const view = createLeadView(dashboard);
  const quality = createQualityView(dashboard);
  const control = createControlView(dashboard, server, () => controlRenewal.reload());
  const figures = createFiguresView(dashboard, view.createFigure, () => [plotsRenewal, curveRenewal].forEach(({ reload }) => reload()));
  const threshold = createThresholdView(dashboard, server, () => curveRenewal.reload());
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
    $("figures-section").hidden = $("control").hidden = $("quality").hidden = false; // with room for what comes later, which moves little
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
  async function loadControl() {
    const answer = await server.control({ project: chosenProject() });
    const isLoaded = checkAnswer(answer);
    if (isLoaded) control.showControl(answer);
    showAge($("control-updated"), isLoaded, answer?.at);
    return isLoaded;
  }
  async function loadPlots() {
    if (!figures.isShown()) return true;
    const answer = await server.plots(figures.request());
    const isLoaded = checkAnswer(answer);
    if (isLoaded) figures.showPlots(answer);
    return isLoaded;
  }
  async function loadCurve() {
    if (!figures.isShown()) return true;
    const answer = await server.curve({ project: chosenProject() });
    const isLoaded = checkAnswer(answer);
    if (isLoaded) threshold.showCurve(answer);
    return isLoaded;
  }
  async function loadQuality() {
    const answer = await server.quality({});
    const isLoaded = checkAnswer(answer);
    if (isLoaded) quality.showQuality(answer);
    showAge($("quality-updated"), isLoaded, answer?.at);
    return isLoaded;
  }
  const renewal = createRenewal(load, showUpdated);
  // The figures are computed from all that was ever judged, which takes long in a large store: nothing waits for them.
  const figuresRenewal = createRenewal(loadFigures, () => {});
  const qualityRenewal = createRenewal(loadQuality, () => {});
  const controlRenewal = createRenewal(loadControl, () => {});
  const plotsRenewal = createRenewal(loadPlots, () => {});
  const curveRenewal = createRenewal(loadCurve, () => {});
  const reloadAll = () => [renewal, controlRenewal, curveRenewal].forEach(({ reload }) => reload());

  $("reload").addEventListener("click", () => {
    reloadAll();
    [figuresRenewal, qualityRenewal, plotsRenewal].forEach(({ reload }) => reload());
  });
  $("project").addEventListener("change", () => {
    replaceAddress({ ...readAddress(), project: $("project").value });
    reloadAll();
  });
  window.addEventListener("hashchange", () => {
    figures.showView();
    plotsRenewal.reload();
    reloadAll();
  });
  reloadAll();
  [figuresRenewal, qualityRenewal, plotsRenewal].forEach(({ reload }) => reload());
}
