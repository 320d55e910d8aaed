// The rating page. `element` holds rate.html; `server` has the functions of ui/rating_service.py that ui/rate.py names.
//
// The way of an answer:
//   keyboard.js or a click   -> choices.js (`choose`), ranking_board.js, scores.js, rewrite.js: what is chosen is in state.js
//   Enter or the button      -> submission.js (`submit`): the answer goes into the outbox, and
//                               cards.js (`showNext`) shows the card that was fetched before
//   outbox.js (`sendAll`)    -> server_calls.js (`call`) -> ui/rating_service.py (`submit`)
//   submission.js (`onSent`) -> the draft is removed, and the card the server sent along is queued (`receive`)
//
// Every part is a function `createPart(page)` in a file of its own. `page` holds the element, the shared state and the
// other parts: a part calls another as `page.part.verb()`.
function rate(element, server, createVotes = null) {
  const $ = (id) => element.querySelector(`#${id}`);
  const storage = createStorage("rlhf_hitl.");
  const page = { element, $, server, storage, state: createState(), pace: createPace(), keymap: createKeymap(storage) };
  const { state } = page;
  page.i18n = createI18n(element, storage);
  page.pictures = createPictureViewer(element, page.i18n.t);
  page.activeTime = createActiveTime(() => page.drafts.save());
  page.rankingBoard = createRankingBoard($("ranking-board"), page.i18n.t, () => {
    page.choices.showChoice();
    page.choices.updateSubmit();
    page.drafts.save();
  });
  page.notices = createNotices(page);
  Object.assign(page, createServerCalls(page)); // call, exchange, receive, describeProblem, openSignIn, showRole
  page.progress = createProgress(page);
  page.cards = createCards(page);
  page.answerPanels = createAnswerPanels(page);
  page.rawView = createRawView(element, storage, [$("open-raw"), $("alike-raw")], page.answerPanels.onRawView);
  page.phone = createPhone(page);
  page.choices = createChoices(page);
  page.scores = createScores(page);
  page.rewrite = createRewrite(page);
  page.drafts = createDrafts(page);
  page.submission = createSubmission(page);
  page.outbox = createOutbox(storage, (body) => page.call("submit", body), page.submission);
  page.history = createHistory(page);
  page.tutorial = createTutorial(page);
  page.gold = createGold(page);
  page.votes = createVotes?.(page); // on the page of leads who decide
  page.guideline = createGuideline(page);
  page.settings = createSettings(page);
  page.keyDialog = createKeyDialog(page);
  const claimUse = createTabClaim(yieldToOtherTab);

  function open() {
    page.exchange("open", {}, ({ example }) => {
      page.outbox.sendAll();
      page.tutorial.begin(example);
      page.cards.showNext();
    });
  }
  function yieldToOtherTab() {
    if (state.isInactive) return;
    page.drafts.save();
    state.isInactive = true;
    page.outbox.close();
    page.guideline.toggle(false);
    page.cards.showSection("other-tab");
  }
  function takeOver() {
    state.isInactive = false;
    page.outbox.open();
    state.card = null;
    state.queue = [];
    state.guidelines = {}; // the other tab may have acknowledged them
    claimUse();
    open();
  }

  // The actions of the keymap that are no choices.
  const actions = {
    rationale: page.choices.focusRationale,
    rewrite: page.rewrite.open,
    scores: () => page.scores.open(),
    difference: page.answerPanels.toggleDifference,
    raw: page.rawView.toggle,
    zoom: page.pictures.openFirst,
    unfold: page.answerPanels.toggleFold,
    undo: page.history.undo,
    history: page.history.open,
    guide: page.guideline.toggleRead,
    help: () => $("help").showModal(),
  };
  const clicks = {
    submit: page.submission.submit,
    undo: actions.undo,
    "undo-empty": actions.undo,
    refresh: open,
    "look-again": open,
    "open-guideline": actions.guide,
    "guideline-close": actions.guide,
    "guideline-agree": page.guideline.acknowledge,
    "open-help": actions.help,
    "open-history": actions.history,
    "open-settings": page.settings.open,
    "open-scores": () => page.scores.open(true),
    "open-rewrite": actions.rewrite,
    "open-difference": actions.difference,
    "alike-difference": actions.difference,
    "open-raw": actions.raw,
    "alike-raw": actions.raw,
    "open-more": () => page.phone.toggleMore(),
    "side-by-side": page.phone.toggleSideBySide,
    "verdict-next": page.cards.showNext,
    "tutorial-leave": page.tutorial.leave,
    "key-reset": page.keyDialog.reset,
    "take-over": takeOver,
  };
  for (const [id, run] of Object.entries(clicks))
    $(id).addEventListener("click", ({ detail }) => {
      // After a click of the mouse the focus leaves the button, so that the next Enter submits and does not press it again.
      state.usesKeyboard = detail === 0;
      if (detail) $("prompt").focus({ preventScroll: true, focusVisible: false });
      run();
    });
  $("unfold").firstElementChild.addEventListener("click", actions.unfold);
  listenToKeys(page, actions);

  window.addEventListener("resize", page.answerPanels.refold);
  new ResizeObserver(page.answerPanels.refold).observe($("prompt")); // it narrows when the guideline opens beside it
  // While the rater is active, their leases are renewed.
  setInterval(async () => {
    if (state.card?.mode === "new" && !state.isInactive && page.activeTime.isActive()) page.receive(await page.call("renew", {}));
  }, 5 * 60_000);

  page.settings.applyTheme();
  page.i18n.setLanguage(page.i18n.language);
  page.keyDialog.update();
  page.choices.updateSubmit();
  page.submission.showUnsent();
  claimUse();
  open();
}
