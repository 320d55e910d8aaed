// Calls of the server, that is of the functions of ui/rating_service.py, and what every answer of it brings.
function createServerCalls(page) {
  const { server, state, i18n: { t } } = page;
  const TIMEOUT = 25_000; // ms after which a call counts as failed
  const EXPIRY_MARGIN = 30_000; // ms by which a lease counts as expired too early, so as not to be used too late

  // Call the server. Resolves to its answer, or to `{ problem: { kind } }` when none came.
  async function call(name, body) {
    const startOfDay = new Date();
    startOfDay.setHours(0, 0, 0, 0);
    const held = [state.card, ...state.queue].filter((card) => card?.mode === "new");
    const expired = held.filter((card) => card.until < Date.now());
    const message = {
      ...body,
      day: startOfDay.toISOString(),
      have: held.map((card) => card.id),
      lapsed: expired.map((card) => card.id),
      guidelines: Object.keys(state.guidelines),
    };
    const timeout = new Promise((resolve) => setTimeout(resolve, TIMEOUT, { problem: { kind: "server" } }));
    const answer = await Promise.race([server[name](message), timeout]);
    if (answer) {
      expired.forEach(startLease); // the server has renewed them, or names them as gone
      return answer;
    }
    // Gradio does not say why a call failed, so a second request finds out.
    try {
      const response = await fetch("../me", { cache: "no-store" });
      if (response.status === 401 || response.status === 403) return { problem: { kind: "signed_out" } };
      const mayOpen = !response.ok || (await response.json()).pages.includes(`/${location.pathname.split("/").at(-2)}`);
      return { problem: { kind: mayOpen ? "server" : "role" } }; // roles change while a page is open
    } catch {
      return { problem: { kind: "offline" } };
    }
  }
  // Note when a card's lease ends by this browser's clock.
  function startLease(card) {
    card.until = Date.now() + 1000 * card.seconds - EXPIRY_MARGIN;
  }
  // Store what every answer of the server brings: cards, progress, and guidelines the page does not have yet.
  function receive(answer) {
    if (answer.progress) page.outbox.setRater(answer.progress.name); // first: cards in the outbox are not queued again
    for (const card of answer.cards ?? []) {
      const isKnown = card.id === state.card?.id || state.queue.some(({ id }) => id === card.id) || page.outbox.has(card.id);
      if (isKnown) continue;
      startLease(card);
      state.queue.push(card);
    }
    if ("qualification" in answer) state.qualification = answer.qualification;
    state.queue = state.queue.filter((card) => !answer.gone?.includes(card.id)); // other raters hold them now
    for (const guideline of answer.guidelines ?? []) state.guidelines[guideline.key] = guideline;
    if (answer.progress) page.progress.show(answer.progress);
  }
  // Call the server while the page waits. A problem is shown with a way to try again; else `onAnswer` gets the answer.
  async function exchange(name, body, onAnswer) {
    if (state.isLoading) return;
    setLoading(true);
    const answer = await call(name, body);
    setLoading(false);
    if (answer.problem) return showProblem(answer.problem, () => exchange(name, body, onAnswer));
    page.notices.dismiss("connection");
    receive(answer);
    onAnswer(answer);
  }
  function setLoading(isLoading) {
    state.isLoading = isLoading;
    page.$("rating").setAttribute("aria-busy", String(isLoading));
    page.choices.updateSubmit();
  }
  function showProblem(problem, retry) {
    const { kind } = problem;
    if (kind === "signed_out") page.notices.notify(t("signed_out"), { label: t("sign_in"), run: openSignIn });
    else if (kind === "role") showRole();
    else if (kind === "offline" || kind === "server")
      page.notices.notify(t(kind === "offline" ? "no_line" : "no_server"), { label: t("try_now"), run: retry }, "connection");
    else page.notices.notify(describeProblem(problem));
  }
  const describeProblem = (problem) => t(`problem_${problem.code ?? problem.kind}`, { detail: problem.detail ?? "" });
  const showRole = () => page.notices.notify(t("problem_role"), { label: t("back"), run: () => location.assign("../") });
  const openSignIn = () => location.assign("../login");

  return { call, exchange, receive, describeProblem, openSignIn, showRole };
}
