// The rater page. `element` holds rate.html; `server` has the functions of ui/desk.py that ui/rate.py names.
//
// One answer's way: a choice is made (`pick`, the board, the panels) -> `submit` puts it into the outbox and shows the
// comparison that was fetched before -> the outbox sends it -> `sent` strikes it out and fetches the one after.
function rate(element, server) {
  const $ = (id) => element.querySelector(`#${id}`);
  const kept = shelf("rlhf_hitl.");
  const { t, paint, speak, number, time, ...tongue } = words(element, kept);
  const keys = keymap(kept);
  const clock = activeClock(() => saveDraft());
  const sitting = session();
  const ranking = board($("board"), t, () => (showAnswers(), showReady(), saveDraft()));
  const choices = [...element.querySelectorAll("[data-choice]")];
  const texts = ["rationale", "rewrite"].map($);
  const PATIENCE = 25_000; // ms that the server may take
  const INSTEAD = ["all_bad", "skipped", "flagged"]; // of a ranking
  const REASONS = { skipped: ["subject", "language", "unclear", "other"], flagged: ["unsafe", "broken", "wrong_language", "private"] };

  let card = null; // what is shown
  let line = []; // cards fetched before they are needed
  let guide = null; // the guideline of the card's project
  const guides = {}; // key -> guideline, as the server sent them
  let choice = null; // a data-choice, or null
  let reason = null; // of a skip or a flag
  let scores = {}; // axis -> a score or null for each answer shown
  let examples = null; // the tutorial's next example
  let recent = null; // the card answered last, to be taken back before it was sent
  let busy = false; // waiting for the server with nothing else to do
  let elsewhere = false; // another tab is the desk now
  let undoing = false; // the answer under way is to be changed once the server has it
  let keyed = false; // the hands are on the keyboard
  let filled = ""; // what the page put into the rewrite: the answer as it was

  // --- the line to the server
  async function call(name, body) {
    const day = new Date();
    day.setHours(0, 0, 0, 0);
    const held = [card, ...line].filter((c) => c?.mode === "new");
    const have = held.map((c) => c.id), lapsed = held.filter((c) => c.until < Date.now()).map((c) => c.id);
    const sent = { ...body, day: day.toISOString(), have, lapsed, guidelines: Object.keys(guides) };
    const late = new Promise((then) => setTimeout(then, PATIENCE, { problem: { kind: "server" } }));
    const answer = await Promise.race([server[name](sent), late]);
    if (answer) {
      for (const one of held) if (lapsed.includes(one.id)) hold(one);
      return answer;
    }
    // Gradio does not say why a call failed, so ask.
    try {
      const me = await fetch("../me", { cache: "no-store" });
      return { problem: { kind: me.status === 401 || me.status === 403 ? "signed_out" : "server" } };
    } catch {
      return { problem: { kind: "offline" } };
    }
  }
  const said = (problem) => t(`problem_${problem.code ?? problem.kind}`, { detail: problem.detail ?? "" });

  const post = outbox(kept, (body) => call("submit", body), {
    waiting(kind, n) {
      showWaiting();
      if (kind === "signed_out") tell(t("waiting_signed_out"), [t("sign_in"), () => location.assign("../login")]);
      else tell(t(kind === "offline" ? "waiting_offline" : "waiting_server"), [t("try_now"), () => post.run()], "line");
    },
    sent(entry, answer, left) {
      showWaiting();
      if (answer.problem) {
        // The draft stays; what it was of is named, for another comparison may be on the screen by now.
        tell(`“\u2068${entry.asked}\u2069”: ${said(answer.problem)}`, entry.body.id === card?.id ? [t("next"), () => (dropDraft(card.id), next())] : null);
        undoing = false;
        if (card?.mode === "waiting") next();
        return;
      }
      dropDraft(entry.body.id);
      if (card?.id === entry.body.id) card.id = answer.judgment; // changed once more meanwhile: it is of what is kept now
      if (left === 0) hush("line");
      if (answer.outcome === "surplus") tell(`“\u2068${entry.asked}\u2069”: ${t("outcome_surplus")}`);
      if (answer.outcome === "repeated") tell(`“\u2068${entry.asked}\u2069”: ${t("outcome_repeated")}`);
      take(answer);
      if (undoing && left === 0) return (undoing = false), revisit(answer.judgment);
      if (!card || card.mode === "waiting" || (card.mode === "empty" && line.length)) next();
    },
  });
  const claim = oneTab(() => {
    if (elsewhere) return;
    saveDraft();
    elsewhere = true;
    post.open = false;
    showOnly("elsewhere");
  });

  // Until when a card is held, by this clock and a little early.
  const hold = (one) => ((one.until = Date.now() + 1000 * one.seconds - 30_000), one);
  // What every answer of the server brings: cards, progress, and the guideline where the page has not got it.
  function take(answer) {
    if (answer.progress) post.belongTo(answer.progress.name); // first: what waits to be sent is not shown again
    for (const fetched of answer.cards ?? [])
      if (fetched.id !== card?.id && !line.some((c) => c.id === fetched.id) && !post.holds(fetched.id)) line.push(hold(fetched));
    line = line.filter((one) => !answer.gone?.includes(one.id)); // others have them now
    for (const sent of answer.guidelines ?? []) guides[sent.key] = sent;
    if (answer.progress) showProgress(answer.progress);
  }
  async function exchange(name, body, then) {
    if (busy) return;
    setBusy(true);
    const answer = await call(name, body);
    setBusy(false);
    if (answer.problem) {
      const { kind } = answer.problem;
      const again = () => exchange(name, body, then);
      if (kind === "signed_out") return tell(t("signed_out"), [t("sign_in"), () => location.assign("../login")]);
      if (kind === "offline" || kind === "server") return tell(t(kind === "offline" ? "no_line" : "no_server"), [t("try_now"), again], "line");
      return tell(said(answer.problem));
    }
    hush("line");
    take(answer);
    then(answer);
  }
  function setBusy(on) {
    busy = on;
    $("desk").setAttribute("aria-busy", String(on));
    showReady();
  }
  const open = () => exchange("open", {}, (answer) => (post.run(), begin(answer)));

  // --- what comes first: the guideline where it is new, the tutorial, then the work
  function begin({ example }) {
    examples = kept.get(left(), false) ? null : example;
    next();
  }
  const left = () => `tutorial_left.${$("who").textContent}`;
  function next() {
    if (elsewhere) return;
    for (const kind of ["moment", "change"]) hush(kind);
    card = null;
    const coming = line[0];
    guide = guides[coming?.guideline] ?? Object.values(guides).at(-1) ?? null;
    if (guide && !guide.acknowledged && (coming || examples)) return showOnly("nothing"), showGuide(true);
    if (examples) return draw(examples);
    if (coming) return draw(line.shift());
    draw({ mode: post.waiting() > 0 ? "waiting" : "empty" });
  }

  // --- notices
  function tell(text, action, kind = "") {
    const notice = $("notice");
    notice.dataset.kind = kind;
    notice.replaceChildren(document.createTextNode(text));
    for (const [name, act] of [action, kind === "line" || kind === "change" ? null : [t("close"), hush]].filter(Boolean)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => act());
      notice.append(button);
    }
    notice.hidden = false;
  }
  function hush(kind) {
    if (!kind || $("notice").dataset.kind === kind) $("notice").hidden = true;
  }
  function announce(text) {
    $("announce").textContent = text;
  }

  // --- drawing
  function showOnly(name) {
    for (const id of ["card", "empty", "elsewhere", "waiting"]) $(id).hidden = id !== name;
    $("bar").hidden = name !== "card";
  }
  function draw(coming) {
    if (elsewhere) return;
    card = coming;
    $("verdict").hidden = true;
    $("card").dataset.id = card.id ?? "";
    if (card.mode === "empty" || card.mode === "waiting") {
      showOnly(card.mode);
      for (const id of ["prompt", "answers"]) $(id).replaceChildren();
      return announce(t(card.mode === "empty" ? "nothing_left" : "waiting_title"));
    }
    showOnly("card");
    for (const id of ["prompt", "answers", "rewrite"]) $(id).lang = card.lang || "";
    $("prompt").innerHTML = card.prompt; // HTML made by ui/markdown.py, which lets nothing of the text's own through
    $("answers").replaceChildren(...card.answers.map(answerPanel));
    paint($("card"));
    $("answers").classList.toggle("many", !pair());
    $("scale").hidden = !pair();
    $("kwise").hidden = pair();
    $("bad-label").textContent = t(pair() ? "both_bad" : "all_bad");
    for (const name of ["skipped", "flagged"]) element.querySelector(`[data-choice="${name}"]`).hidden = card.mode === "tutorial";
    $("tutorial").hidden = card.mode !== "tutorial";
    if (card.mode === "tutorial") $("tutorial-count").textContent = t("tutorial_count", card);
    fold();
    fill(drafts()[card.id] ?? given(card.answer));
    if (card.mode === "correct") tell(t("changing"), [t("leave_it"), leaveCorrection], "change");
    window.scrollTo(0, 0);
    const box = $("prompt"); // where the conversation is long, its last turn is what is answered
    if (box.lastElementChild) box.scrollTop = box.lastElementChild.offsetTop - box.offsetTop - 16;
    box.focus({ preventScroll: true, focusVisible: keyed });
    announce(t(card.mode === "correct" ? "your_answer" : card.mode === "tutorial" ? "tutorial_next" : "next_comparison"));
  }
  const pair = () => card?.answers?.length === 2;
  function fill(draft) {
    const made = card; // the board's first drawing would save an empty draft of it
    card = null;
    reason = draft.reason ?? null;
    scores = draft.scores ?? {};
    $("rationale").value = draft.rationale ?? "";
    $("rewrite").value = draft.rewrite ?? "";
    filled = "";
    ranking.draw(made.answers.map((a) => a.letter), draft.ranks);
    card = made;
    showPanels();
    pick(draft.choice ?? null, true);
    clock.start(draft.active ?? 0);
  }
  // A judgment as the page holds an answer.
  function given(answer) {
    if (!answer) return {};
    const { verdict, ranks, strength, ...rest } = answer;
    let chosen = verdict === "ranked" ? null : verdict;
    if (verdict === "ranked" && pair()) chosen = ranks[0] === ranks[1] ? "tie" : `${ranks[0] < ranks[1] ? "A" : "B"}${strength ?? 1}`;
    return { ...rest, choice: chosen, ranks };
  }
  function answerPanel({ letter, html }, at) {
    const panel = document.createElement("section");
    panel.className = "answer";
    panel.dataset.at = at;
    panel.setAttribute("aria-label", t("answer", { letter }));
    panel.innerHTML = `<header><h2 class="letter">${letter}</h2></header><div class="said">${html}</div><div class="axes" hidden></div>`;
    if (!pair()) panel.firstElementChild.append(rankButtons(letter, at));
    return panel;
  }
  function rankButtons(letter, at) {
    return buttons("ranks", t("rank_of", { letter }), card.answers.map((_, i) => i + 1), (rank) => ({
      label: t("answer_rank", { letter, n: rank }),
      press: () => (leaveChoice(), ranking.set(at, ranking.ranks[at] === rank ? null : rank)),
    }));
  }
  // A row of toggles for the numbers or words of `each`.
  function buttons(name, label, each, how) {
    const group = document.createElement("div");
    group.className = name;
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", label);
    for (const one of each) {
      const button = document.createElement("button");
      const { label: spoken, press, text = one } = how(one);
      button.type = "button";
      button.textContent = text;
      button.dataset.is = one;
      if (spoken) button.setAttribute("aria-label", spoken);
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", press);
      group.append(button);
    }
    return group;
  }
  function fold(all = false) {
    const answers = $("answers");
    reach();
    const limit = Math.max(320, Math.round(window.innerHeight * 0.9));
    answers.classList.remove("folded");
    const long = [...answers.children].some((panel) => panel.scrollHeight > limit * 1.15);
    answers.style.setProperty("--fold", `${limit}px`);
    answers.classList.toggle("folded", long && !all);
    $("unfold").hidden = !long;
    const button = $("unfold").firstElementChild;
    button.firstElementChild.textContent = t(all ? "fold" : "show_all");
    button.setAttribute("aria-expanded", String(all));
  }
  const refold = () => card?.answers && fold(!$("answers").classList.contains("folded") && !$("unfold").hidden);
  // What scrolls by itself is scrolled with the keyboard, too.
  function reach() {
    for (const box of element.querySelectorAll(".text :is(pre, table, .math)"))
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
  function difference() {
    if (!pair() || busy) return;
    if (card.plain) return showSaid();
    const shown = card;
    exchange("difference", { id: card.id, mode: card.mode }, (answer) => card === shown && showSaid(answer.marked));
  }
  // With `marked`, the words only one side has are marked; without, the answers as they are.
  function showSaid(marked) {
    card.plain = Boolean(marked);
    card.answers.forEach(({ html }, at) => {
      $("answers").children[at].querySelector(".said").innerHTML = marked ? marked[at] : html; // of ui/markdown.py
    });
    paint($("answers"));
    $("open-difference").setAttribute("aria-pressed", String(card.plain));
    refold();
    const same = marked && !$("answers").querySelector("del, ins");
    if (same) tell(t("difference_none"), null, "moment");
    announce(t(same ? "difference_none" : marked ? "difference_on" : "difference_off"));
  }

  // --- choosing
  function pick(name, quietly = false) {
    choice = name;
    if (!REASONS[name]?.includes(reason)) reason = null;
    showReasons();
    showAnswers();
    showReady();
    if (!quietly) saveDraft();
  }
  const leaveChoice = () => choice !== null && pick(null, true);
  function showReasons() {
    const of = REASONS[choice] ?? [];
    $("reasons").hidden = of.length === 0;
    if (of.length === 0) return;
    const row = buttons("reason-row", t(`${choice}_why`), of, (code) => ({
      text: `${of.indexOf(code) + 1} ${t(`reason_${code}`)}`,
      press: () => chooseReason(code),
    }));
    const asked = document.createElement("span");
    asked.textContent = t(`${choice}_why`);
    $("reasons").replaceChildren(asked, row);
    chooseReason(reason);
  }
  function chooseReason(code) {
    reason = code;
    for (const button of $("reasons").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.is === code));
    showReady();
    if (code) saveDraft();
  }
  // The panels that may be opened: scores, rationale, rewrite. What is required, or begun, is open.
  function showPanels() {
    const wants = guide?.scores ?? "off";
    $("open-scores").hidden = wants === "off" || card.mode === "tutorial";
    for (const id of ["rewriting", "rationale-row", "open-rewrite", "undo"]) $(id).classList.toggle("off", card.mode === "tutorial");
    $("rewriting").hidden = !$("rewrite").value;
    showScores(wants === "required" || Object.keys(scores).length > 0);
    $("rationale").placeholder = t(guide?.rationale === "required" ? "why_required" : "why");
    $("rationale").required = guide?.rationale === "required";
  }
  function showScores(on) {
    on &&= card.mode !== "tutorial" && guide?.scores !== "off";
    $("open-scores").setAttribute("aria-expanded", String(on));
    [...$("answers").children].forEach((panel, at) => {
      const axes = panel.querySelector(".axes");
      axes.hidden = !on;
      if (on) axes.replaceChildren(...guide.axes.map((axis) => axisRow(axis, at)));
    });
    if (on) showAxes();
  }
  function axisRow(axis, at) {
    const letter = card.answers[at].letter;
    const row = buttons("axis", `${axis.title}, ${t("answer", { letter })}`, [1, 2, 3, 4, 5], (n) => ({
      label: `${axis.title}: ${n}/5`,
      press() {
        const now = scores[axis.id] ?? card.answers.map(() => null);
        now[at] = now[at] === n ? null : n;
        scores[axis.id] = now;
        showAxes();
        showReady();
        saveDraft();
      },
    }));
    const name = document.createElement("span");
    name.textContent = axis.title;
    name.title = axis.description;
    row.dataset.axis = axis.id;
    row.prepend(name);
    return row;
  }
  const scoreOf = (row) => scores[row.dataset.axis]?.[row.closest(".answer").dataset.at] ?? null;
  // The keyboard goes to the first row after `row` that has no score; to the conversation when there is none.
  function nextScore(row = null) {
    const rows = [...element.querySelectorAll(".axis")];
    const left = rows.slice(rows.indexOf(row) + 1).find((r) => scoreOf(r) === null);
    (left?.querySelector('[tabindex="0"]') ?? $("prompt")).focus();
  }
  // To the scores with the keyboard; from them it closes them, unless the guideline requires them. So does the mouse.
  function openScores(close = document.activeElement?.closest(".axis")) {
    if ($("open-scores").hidden) return;
    const shown = $("open-scores").getAttribute("aria-expanded") === "true";
    if (shown && close && guide.scores !== "required") return showScores(false), $("prompt").focus();
    if (!shown) showScores(true);
    nextScore();
  }
  // A key while a row of scores has the focus; true if it meant something there.
  function scoreKey(row, key) {
    const buttons = [...row.querySelectorAll("button")];
    if (/^[1-5]$/.test(key)) {
      if (scoreOf(row) !== Number(key)) buttons[key - 1].click();
      nextScore(row);
    } else if (key === "ArrowLeft" || key === "ArrowRight") {
      const ahead = (key === "ArrowRight") === (element.dir !== "rtl");
      buttons[(buttons.indexOf(document.activeElement) + (ahead ? 1 : 4)) % 5].focus();
    } else if (key === "Escape") $("prompt").focus();
    else return false;
    return true;
  }
  function showAxes() {
    for (const row of element.querySelectorAll(".axis"))
      for (const button of row.querySelectorAll("button")) {
        const n = Number(button.dataset.is);
        button.setAttribute("aria-pressed", String(n === scoreOf(row)));
        button.tabIndex = n === (scoreOf(row) ?? 1) ? 0 : -1; // a row is one stop of the Tab key
      }
  }
  function best() {
    if (pair()) return choice?.[0] === "B" && choice.length === 2 ? 1 : 0;
    const ranked = ranking.ranks.filter((r) => r !== null);
    return ranked.length ? ranking.ranks.indexOf(Math.min(...ranked)) : 0;
  }
  function openRewrite() {
    $("rewriting").hidden = false;
    fillRewrite();
    $("rewrite").focus();
  }
  // Untouched, it follows the choice: what is rewritten is the better answer.
  function fillRewrite() {
    if ($("rewriting").hidden || !card?.answers || ($("rewrite").value && $("rewrite").value !== filled)) return;
    $("rewrite").value = card.answers[best()].text;
    filled = $("rewrite").value; // as the box has it, which may break lines otherwise
  }
  const rewritten = () => ($("rewriting").hidden || $("rewrite").value === filled ? "" : $("rewrite").value);
  function showAnswers() {
    if (!card?.answers) return;
    fillRewrite();
    for (const button of choices) button.setAttribute("aria-pressed", String(button.dataset.choice === choice));
    $("kwise").classList.toggle("aside", choice !== null); // the ranking is kept, should the choice have been a slip
    const ranked = ranking.ranks.filter((r) => r !== null);
    const top = ranked.length ? Math.min(...ranked) : null;
    [...$("answers").children].forEach((panel, at) => {
      const best = pair() ? choice?.length === 2 && choice[0] === "AB"[at] : choice === null && top !== null && ranking.ranks[at] === top;
      panel.classList.toggle("better", best);
      panel.classList.toggle("marked", !pair() && at === ranking.mark);
      for (const button of panel.querySelectorAll(".ranks button"))
        button.setAttribute("aria-pressed", String(ranking.ranks[at] === Number(button.dataset.is)));
    });
  }
  // Why the answer cannot be sent yet, as a key of the translations; null when it can.
  function missing() {
    if (!card?.answers) return "choose";
    if (choice === "flagged") return reason ? null : "choose_reason";
    if (INSTEAD.includes(choice)) return null;
    if (pair() ? choice === null : ranking.ranks.filter((r) => r !== null).length < 2) return pair() ? "choose" : "rank_two";
    if (card.mode === "tutorial") return null;
    if (guide?.rationale === "required" && !$("rationale").value.trim()) return "why_required";
    return guide?.scores === "required" && missingScores().length > 0 ? "score_all" : null;
  }
  const missingScores = () => guide.axes.filter((axis) => !scores[axis.id]?.every((n) => n !== null));
  function showReady() {
    const lacks = missing();
    $("submit").setAttribute("aria-disabled", String(busy || lacks !== null)); // it may be pressed, and says what lacks
    $("lacks").hidden = true;
    for (const id of ["undo", "undo-empty"]) $(id).disabled = busy;
  }
  function answered() {
    if (INSTEAD.includes(choice)) return { verdict: choice, reason };
    if (!pair()) return { verdict: "ranked", ranks: ranking.ranks };
    if (choice === "tie") return { verdict: "ranked", ranks: [1, 1] };
    return { verdict: "ranked", ranks: choice[0] === "A" ? [1, 2] : [2, 1], strength: Number(choice[1]) };
  }

  // --- drafts: an answer that is not sent yet survives a reload, a lost line and a lost session
  const drafts = () => kept.get("drafts", {});
  function saveDraft() {
    if (!card?.id || card.mode === "tutorial") return;
    const { [card.id]: _, ...rest } = drafts();
    const draft = { choice, reason, scores, ranks: pair() ? null : ranking.ranks, rationale: $("rationale").value, rewrite: rewritten(), active: clock.seconds() };
    kept.put("drafts", Object.fromEntries(Object.entries({ ...rest, [card.id]: draft }).slice(-8)));
  }
  function dropDraft(id) {
    const { [id]: _, ...rest } = drafts();
    kept.put("drafts", rest);
  }

  // --- sending
  function submit() {
    if (busy || elsewhere) return;
    if (!$("verdict").hidden) return next();
    const lacks = missing();
    if (lacks !== null) return card?.answers && ask(lacks);
    if (card.mode === "tutorial") return tryExample();
    saveDraft();
    undoing = false;
    const { id, mode, asked } = card;
    const active = clock.seconds();
    const body = { id, mode, ...answered(), scores, rationale: $("rationale").value, rewrite: rewritten(), active_seconds: active };
    recent = card;
    const why = sitting.add(active, choice);
    post.put({ body, asked });
    showWaiting();
    next();
    if (why) suggestBreak(why);
  }
  // What an answer still lacks is said, and the keyboard is where it can be given.
  function ask(lacks) {
    if (lacks === "score_all") openScores();
    if (lacks === "why_required") $("rationale").focus();
    $("lacks").textContent = t(lacks);
    $("lacks").hidden = false;
  }
  function suggestBreak(why) {
    if (!$("notice").hidden && $("notice").dataset.kind !== "moment") return; // what is told there matters more
    sitting.rest();
    tell(t(`break_${why}`), [t("break_take"), () => $("rest").showModal()], "moment");
  }
  const leaveCorrection = () => (dropDraft(card.id), next());
  function undo() {
    if (busy || card?.mode === "tutorial") return;
    saveDraft();
    if (card?.mode === "correct") return before(card.id);
    const entry = recent && post.holds(recent.id) ? post.takeBack() : null;
    if (!entry) {
      if (post.waiting() === 0) return revisit("");
      undoing = true; // the server may have it: it is changed as soon as it says so
      return post.run();
    }
    showWaiting();
    if (card?.id) line.unshift(card);
    draw(recent); // its draft is still there
  }
  // From one answer of one's own to the one before it.
  function before(id) {
    exchange("history", {}, ({ judged }) => {
      const older = judged[judged.findIndex((one) => one.id === id) + 1];
      if (older) revisit(older.id);
      else announce(t("history_none"));
    });
  }
  // An answer of one's own as a card, to be changed; the newest where none is named.
  function revisit(id) {
    exchange("revisit", { id }, (answer) => {
      if (card?.mode === "new") line.unshift(card);
      draw(answer.card);
    });
  }

  // --- the tutorial
  function tryExample() {
    exchange("try_example", { id: card.id, mode: "tutorial", ...answered() }, (answer) => {
      $("verdict").hidden = false;
      $("verdict").classList.toggle("agreed", answer.agreed);
      $("verdict-title").textContent = t(answer.agreed ? "tutorial_agreed" : "tutorial_differed");
      const expected = answer.expected === "all_bad_said" && pair() ? "both_bad" : answer.expected;
      $("verdict-expected").textContent = t("tutorial_expected", { answer: t(expected) });
      $("bar").hidden = true; // nothing is left to choose
      $("verdict-why").innerHTML = answer.why; // of ui/markdown.py
      paint($("verdict"));
      $("verdict").focus();
      examples = answer.example;
    });
  }

  // --- what is open beside the work
  let opener = null; // what had the focus when the guideline was opened
  function showGuide(on = $("guide").hidden) {
    if (on && $("guide").hidden) opener = document.activeElement;
    if (!on && !$("guide").hidden) (opener?.isConnected ? opener : $("prompt")).focus({ preventScroll: true });
    $("guide").hidden = !on;
    $("desk").classList.toggle("guided", on && guide?.acknowledged);
    $("desk").classList.toggle("reading", on && !guide?.acknowledged);
    $("open-guide").setAttribute("aria-expanded", String(on));
    if (!guide) return;
    $("guide-version").textContent = guide.version;
    $("guide-text").innerHTML = guide.html; // of ui/markdown.py
    paint($("guide-text"));
    $("guide-changed").hidden = $("guide-agree").hidden = guide.acknowledged;
    $("guide-close").hidden = !guide.acknowledged;
    if (on) reach(), $("guide-title").focus();
  }
  function history() {
    exchange("history", {}, ({ judged }) => {
      const rows = judged.map((one) => {
        const row = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.className = "past";
        const asked = document.createElement("bdi"), what = document.createElement("span");
        asked.textContent = one.asked;
        what.textContent = `${t(one.said)} · ${time(one.at)}`;
        what.className = "note";
        button.append(asked, what);
        button.addEventListener("click", () => ($("past").close(), revisit(one.id)));
        row.append(button);
        return row;
      });
      // What the server did not take is not lost: it can be read here, and sent anew by hand.
      const refused = post.refused().map(({ asked, problem, body }) => {
        const row = document.createElement("li");
        row.className = "past refused";
        for (const text of [asked, said(problem), body.rationale, body.rewrite].filter(Boolean)) {
          const line = document.createElement("bdi");
          line.textContent = text;
          row.append(line);
        }
        return row;
      });
      $("past-list").replaceChildren(...refused, ...rows);
      $("past-none").hidden = refused.length + rows.length > 0;
      $("past").showModal();
    });
  }
  function showProgress({ name, done, left, capped }) {
    $("who").textContent = name;
    const goal = kept.get("goal", 0);
    const of = goal ? t("done_of", { n: number(done), goal: number(goal) }) : t("done", { n: number(done) });
    const pace = sitting.pace();
    $("progress").textContent = [of, t("left", { n: number(left) + (capped ? "+" : "") }), pace && t("pace", { n: number(pace) })].filter(Boolean).join(" · ");
    $("goal").hidden = !goal;
    $("goal").value = Math.min(done, goal);
    $("goal").max = goal || 1;
    if (goal && done === goal) announce(t("goal_reached"));
    showProgress.last = { name, done, left, capped };
  }
  function showWaiting() {
    const n = post.waiting();
    $("desk").dataset.unsent = n;
    $("unsent").hidden = n === 0 || $("notice").dataset.kind !== "line" || $("notice").hidden;
    $("unsent").textContent = t("unsent", { n: number(n) });
  }
  function showKeys() {
    for (const node of element.querySelectorAll("kbd[data-key]")) node.dataset.shows = (keys.of(node.dataset.key) ?? "").toUpperCase();
    for (const button of choices) button.setAttribute("aria-keyshortcuts", keys.of(button.dataset.choice).toUpperCase());
    const rows = keys.actions.map((action) => {
      const row = document.createElement("div");
      const name = document.createElement("dt"), what = document.createElement("dd"), button = document.createElement("button");
      button.type = "button";
      button.className = "key";
      button.textContent = keys.of(action).toUpperCase();
      button.setAttribute("aria-label", t("key_change", { action: t(`key_${action}`), key: keys.of(action) }));
      button.addEventListener("click", () => (button.classList.add("listens"), (button.textContent = "…"), (listening = action)));
      button.addEventListener("blur", () => listening === action && ((listening = null), showKeys()));
      what.textContent = t(`key_${action}`);
      name.append(button);
      row.append(name, what);
      return row;
    });
    $("key-list").replaceChildren(...rows);
    $("key-reset").hidden = !keys.changed;
  }
  let listening = null; // the action whose new key is waited for
  function showSettings() {
    $("language").replaceChildren(...tongue.languages.map((tag) => new Option(new Intl.DisplayNames([tag], { type: "language" }).of(tag), tag)));
    $("language").value = tongue.language;
    $("goal-number").value = kept.get("goal", 0) || "";
    $("theme").value = kept.get("theme", "");
    $("settings").showModal();
  }
  function dress() {
    const dark = kept.get("theme", "") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    document.body.classList.toggle("dark", dark === "dark");
  }

  // --- hands
  for (const button of choices)
    button.addEventListener("click", (event) => {
      if (event.detail > 2) return; // the tail of a burst of clicks belongs to the comparison before
      if (choice === button.dataset.choice) return submit();
      pick(button.dataset.choice);
    });
  const acts = {
    rationale: () => $("rationale").focus(),
    rewrite: openRewrite,
    scores: () => openScores(),
    difference,
    unfold: () => $("unfold").hidden || fold($("answers").classList.contains("folded")),
    undo,
    history,
    guide: () => guide?.acknowledged && showGuide(),
    help: () => $("help").showModal(),
  };
  const onClick = {
    submit, undo, "undo-empty": undo, refresh: open, "open-guide": acts.guide, "guide-close": acts.guide,
    "open-help": acts.help, "open-history": history, "open-settings": showSettings, "open-scores": () => openScores(true),
    "open-rewrite": openRewrite, "open-difference": difference, "verdict-next": next,
    "guide-agree": () => exchange("acknowledge", { id: guide.key }, () => ((guide.acknowledged = true), showGuide(false), next())),
    "tutorial-leave": () => (kept.put(left(), true), (examples = null), next()),
    "key-reset": () => (keys.reset(), showKeys()),
    "take-over": () => ((elsewhere = false), (post.open = true), (card = null), (line = []), claim(), open()),
  };
  for (const [id, act] of Object.entries(onClick))
    $(id).addEventListener("click", (event) => {
      // Who clicks with a mouse goes on with keys: their next Enter submits, and does not press this button again.
      keyed = event.detail === 0;
      if (event.detail) $("prompt").focus({ preventScroll: true, focusVisible: false });
      act();
    });
  $("unfold").firstElementChild.addEventListener("click", acts.unfold);
  for (const box of texts) box.addEventListener("input", () => (showReady(), saveDraft()));
  $("language").addEventListener("change", () => (kept.put("language", $("language").value), location.reload()));
  $("theme").addEventListener("change", () => (kept.put("theme", $("theme").value), dress()));
  $("goal-number").addEventListener("change", () => (kept.put("goal", Math.max(0, Math.round(Number($("goal-number").value)) || 0)), showProgress(showProgress.last)));

  document.addEventListener("pointerdown", () => (keyed = false), true);
  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    keyed = true;
    const target = event.target;
    if (listening !== null && target.matches?.(".key")) {
      if (event.key === "Tab") return;
      event.preventDefault();
      if (keys.usable(event.key)) keys.change(listening, event.key.toLowerCase());
      const action = listening;
      listening = null;
      showKeys();
      return $("key-list").querySelectorAll(".key")[keys.actions.indexOf(action)].focus();
    }
    if (target.matches?.("textarea, input, select, [contenteditable]")) {
      if (event.key === "Escape") target.blur();
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.preventDefault(), submit();
      return;
    }
    if (event.repeat || element.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ((event.ctrlKey || event.metaKey) && key === "z") return event.preventDefault(), undo();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const row = target.closest?.(".axis");
    if (row && scoreKey(row, key)) return event.preventDefault();
    if (key === "Escape" && !$("guide").hidden && guide?.acknowledged) return showGuide(false);
    if (key === "Escape" && card?.mode === "correct") return leaveCorrection();
    if (key === "Enter" && !target.closest?.("button, a, summary")) return event.preventDefault(), submit();
    if (key === "Enter" || key === " ") return; // on a button they press it
    const working = Boolean(card?.answers) && !elsewhere;
    if (working && REASONS[choice] && /^[1-9]$/.test(key) && REASONS[choice][key - 1]) return event.preventDefault(), chooseReason(REASONS[choice][key - 1]);
    const scrolls = target.closest?.("pre, table, .math") && !/^[0-9]$/.test(key);
    if (working && !pair() && !scrolls && ranking.key(key)) return leaveChoice(), event.preventDefault();
    const action = keys.action(key);
    if (!action || (!working && !["undo", "history", "guide", "help"].includes(action))) return;
    event.preventDefault();
    if (acts[action]) acts[action]();
    else if (pair() || INSTEAD.includes(action)) {
      const button = choices.find((b) => b.dataset.choice === action);
      if (!button.hidden) pick(!pair() && choice === action ? null : action);
    }
  });
  window.addEventListener("resize", refold);
  new ResizeObserver(refold).observe($("prompt")); // also narrower beside the guideline
  new ResizeObserver(([bar]) => element.style.setProperty("--bar", `${bar.target.offsetHeight}px`)).observe($("bar"));
  // Somebody is at work: what they hold stays theirs.
  setInterval(async () => {
    if (card?.mode === "new" && !elsewhere && clock.atWork()) take(await call("renew", {}));
  }, 5 * 60_000);

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dress);
  dress();
  speak(tongue.language);
  showKeys();
  showReady();
  showWaiting();
  claim();
  open();
}
