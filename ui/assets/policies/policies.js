// The page of policies. `element` holds policies.html; `server` has open and changes: calls to ui/policies.py.
function policies(element, server) {
  const dashboard = createDashboard(element, "policies");
  const { $, checkAnswer, showProjects, showUpdated, showLoading } = dashboard;
  const address = { read: readAddress, change: (values) => replaceAddress({ ...readAddress(), ...values }) };
  const ranking = createRankingView(dashboard);
  const changes = createChangesView(dashboard, server, address);
  const lineage = createLineageView(dashboard, changes.choose);
  let asked = 0; // the newest question; answers to older ones are not drawn

  function readRequest() {
    const { project = null, votes = null, language = null, tag = null, style } = readAddress();
    return { project, votes, language, tag: parseTag(tag), style: style === "1" };
  }
  // An address may hold anything.
  function parseTag(text) {
    try {
      const tag = JSON.parse(text);
      return Array.isArray(tag) && tag.length === 2 && tag.every((part) => typeof part === "string") ? tag : null;
    } catch {
      return null;
    }
  }
  async function load(isQuiet) {
    if (!isQuiet) showLoading();
    const question = ++asked;
    const answer = await server.open(readRequest());
    if (question !== asked) return true;
    if (!checkAnswer(answer)) return false;
    showProjects(answer.projects);
    ranking.show(answer);
    lineage.show(answer.lineage);
    const isFirst = $("changes-panel").hidden;
    if ((!isQuiet || isFirst) && changes.setChoices(answer.names, answer.lineage.lines)) changes.load();
    return true;
  }
  const renewal = createRenewal(load, showUpdated);
  const filter = (values) => {
    address.change(values);
    renewal.reload();
  };
  $("reload").addEventListener("click", renewal.reload);
  $("project").addEventListener("change", () => filter({ project: $("project").value }));
  $("votes").addEventListener("change", () => filter({ votes: $("votes").value }));
  $("language").addEventListener("change", () => filter({ language: $("language").value }));
  $("tag").addEventListener("change", () => filter({ tag: $("tag").value }));
  $("style").addEventListener("change", () => filter({ style: $("style").checked ? "1" : "" }));
  window.addEventListener("hashchange", renewal.reload);
  renewal.reload();
}
