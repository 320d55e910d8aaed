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

  // --- the line to the server
  async function call(name, body) {
    const day = new Date();
    day.setHours(0, 0, 0, 0);
    const have = [card, ...line].filter((c) => c?.mode === "new").map((c) => c.id);
    const answer = await server[name]({ ...body, day: day.toISOString(), have, guidelines: Object.keys(guides) });
    if (answer) return answer;
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
        if (card?.mode === "waiting") next();
        return;
      }
      dropDraft(entry.body.id);
      if (left === 0) hush("line");
      if (answer.outcome === "surplus") tell(`“\u2068${entry.asked}\u2069”: ${t("outcome_surplus")}`);
      if (answer.outcome === "repeated") tell(`“\u2068${entry.asked}\u2069”: ${t("outcome_repeated")}`);
      take(answer);
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

  // What every answer of the server brings: cards, progress, and the guideline where the page has not got it.
  function take(answer) {
    for (const fetched of answer.cards ?? [])
      if (fetched.id !== card?.id && !line.some((c) => c.id === fetched.id) && !post.holds(fetched.id)) line.push(fetched);
    for (const sent of answer.guidelines ?? []) guides[sent.key] = sent;
    if (answer.progress) {
      post.belongTo(answer.progress.name);
      showProgress(answer.progress);
    }
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
    examples = kept.get("tutorial_left", false) ? null : example;
    next();
  }
  function next() {
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
    card = coming;
    $("verdict").hidden = true;
    $("card").dataset.id = card.id ?? "";
    if (card.mode === "empty" || card.mode === "waiting") {
      showOnly(card.mode);
      for (const id of ["prompt", "answers"]) $(id).replaceChildren();
      return announce(t(card.mode === "empty" ? "nothing_left" : "waiting_title"));
    }
    showOnly("card");
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
    if (card.mode === "correct") tell(t("changing"), [t("leave_it"), () => (dropDraft(card.id), next())], "change");
    window.scrollTo(0, 0);
    const box = $("prompt"); // where the conversation is long, its last turn is what is answered
    if (box.lastElementChild) box.scrollTop = box.lastElementChild.offsetTop - box.offsetTop - 16;
    box.focus({ preventScroll: true, focusVisible: false });
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
  async function difference() {
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
    announce(t(marked ? "difference_on" : "difference_off"));
  }

  // --- choosing
  function pick(name, quietly = false) {
    choice = name;
    if (!REASONS[name]?.includes(reason)) reason = null;
    if (name !== null && !pair() && ranking.ranks.some((r) => r !== null)) ranking.clear();
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
  function showAxes() {
    for (const row of element.querySelectorAll(".axis")) {
      const score = scores[row.dataset.axis]?.[row.closest(".answer").dataset.at] ?? null;
      for (const button of row.querySelectorAll("button")) button.setAttribute("aria-pressed", String(Number(button.dataset.is) === score));
    }
  }
  function best() {
    if (pair()) return choice?.[0] === "B" && choice.length === 2 ? 1 : 0;
    const ranked = ranking.ranks.filter((r) => r !== null);
    return ranked.length ? ranking.ranks.indexOf(Math.min(...ranked)) : 0;
  }
  function openRewrite() {
    $("rewriting").hidden = false;
    if (!$("rewrite").value) $("rewrite").value = card.answers[best()].text;
    $("rewrite").focus();
  }
  function showAnswers() {
    if (!card?.answers) return;
    for (const button of choices) button.setAttribute("aria-pressed", String(button.dataset.choice === choice));
    const ranked = ranking.ranks.filter((r) => r !== null);
    const top = ranked.length ? Math.min(...ranked) : null;
    [...$("answers").children].forEach((panel, at) => {
      panel.classList.toggle("better", pair() ? choice?.length === 2 && choice[0] === "AB"[at] : top !== null && ranking.ranks[at] === top);
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
    const full = (axis) => scores[axis.id]?.every((n) => n !== null);
    return guide?.scores === "required" && !guide.axes.every(full) ? "score_all" : null;
  }
  function showReady() {
    const lacks = missing();
    $("submit").disabled = busy || lacks !== null;
    $("submit").title = lacks ? t(lacks) : "";
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
    const draft = { choice, reason, scores, ranks: pair() ? null : ranking.ranks, rationale: $("rationale").value, rewrite: $("rewrite").value, active: clock.seconds() };
    kept.put("drafts", Object.fromEntries(Object.entries({ ...rest, [card.id]: draft }).slice(-8)));
  }
  function dropDraft(id) {
    const { [id]: _, ...rest } = drafts();
    kept.put("drafts", rest);
  }

  // --- sending
  function submit() {
    if (busy || elsewhere || missing() !== null) return;
    if (!$("verdict").hidden) return next();
    if (card.mode === "tutorial") return tryExample();
    saveDraft();
    const { id, mode, asked } = card;
    const active = clock.seconds();
    const rewrite = $("rewriting").hidden || $("rewrite").value === card.answers[best()].text ? "" : $("rewrite").value;
    const body = { id, mode, ...answered(), scores, rationale: $("rationale").value, rewrite, active_seconds: active };
    recent = card;
    const why = sitting.add(active, choice);
    post.put({ body, asked });
    showWaiting();
    next();
    if (why) suggestBreak(why);
  }
  function suggestBreak(why) {
    sitting.rest();
    tell(t(`break_${why}`), [t("break_take"), () => $("rest").showModal()], "moment");
  }
  function undo() {
    if (busy || card?.mode === "correct" || card?.mode === "tutorial") return;
    saveDraft();
    const entry = post.takeBack();
    if (!entry) return revisit("");
    if (recent?.id !== entry.body.id) return post.put(entry); // from before the page was loaded: its card is not here
    showWaiting();
    if (card?.id) line.unshift(card);
    draw(recent); // its draft is still there
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
      $("verdict-expected").textContent = t("tutorial_expected", { answer: t(answer.expected) });
      $("verdict-why").innerHTML = answer.why; // of ui/markdown.py
      paint($("verdict"));
      $("verdict").focus();
      examples = answer.example;
    });
  }

  // --- what is open beside the work
  function showGuide(on = $("guide").hidden) {
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
  async function history() {
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
      $("past-list").replaceChildren(...rows);
      $("past-none").hidden = rows.length > 0;
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
    scores: () => $("open-scores").hidden || showScores($("open-scores").getAttribute("aria-expanded") !== "true"),
    difference,
    unfold: () => $("unfold").hidden || fold($("answers").classList.contains("folded")),
    undo,
    history,
    guide: () => guide?.acknowledged && showGuide(),
    help: () => $("help").showModal(),
  };
  const onClick = {
    submit, undo, "undo-empty": undo, refresh: open, "open-guide": acts.guide, "guide-close": acts.guide,
    "open-help": acts.help, "open-history": history, "open-settings": showSettings, "open-scores": acts.scores,
    "open-rewrite": openRewrite, "open-difference": difference, "verdict-next": next,
    "guide-agree": () => exchange("acknowledge", { id: guide.key }, () => ((guide.acknowledged = true), showGuide(false), next())),
    "tutorial-leave": () => (kept.put("tutorial_left", true), (examples = null), next()),
    "key-reset": () => (keys.reset(), showKeys()),
    "take-over": () => ((elsewhere = false), (post.open = true), (card = null), (line = []), claim(), open()),
  };
  for (const [id, act] of Object.entries(onClick))
    $(id).addEventListener("click", (event) => {
      // Who clicks with a mouse goes on with keys: their next Enter submits, and does not press this button again.
      if (event.detail) $("prompt").focus({ preventScroll: true, focusVisible: false });
      act();
    });
  $("unfold").firstElementChild.addEventListener("click", acts.unfold);
  for (const box of texts) box.addEventListener("input", () => (showReady(), saveDraft()));
  $("language").addEventListener("change", () => (kept.put("language", $("language").value), location.reload()));
  $("theme").addEventListener("change", () => (kept.put("theme", $("theme").value), dress()));
  $("goal-number").addEventListener("change", () => (kept.put("goal", Math.max(0, Math.round(Number($("goal-number").value)) || 0)), showProgress(showProgress.last)));

  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
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
    if (key === "Escape" && !$("guide").hidden && guide?.acknowledged) return showGuide(false);
    if (key === "Enter" && !target.closest?.("button, a, summary")) return event.preventDefault(), submit();
    if (key === "Enter" || key === " ") return; // on a button they press it
    const working = Boolean(card?.answers) && !elsewhere;
    if (working && REASONS[choice] && /^[1-9]$/.test(key) && REASONS[choice][key - 1]) return event.preventDefault(), chooseReason(REASONS[choice][key - 1]);
    if (working && !pair() && (leaveChoiceFor(key), ranking.key(key))) return event.preventDefault();
    const action = keys.action(key);
    if (!action || (!working && !["undo", "history", "guide", "help"].includes(action))) return;
    event.preventDefault();
    if (acts[action]) acts[action]();
    else if (pair() || INSTEAD.includes(action)) {
      const button = choices.find((b) => b.dataset.choice === action);
      if (!button.hidden) pick(action);
    }
  });
  const leaveChoiceFor = (key) => (/^[1-9]$/.test(key) || key.startsWith("Arrow")) && leaveChoice();
  window.addEventListener("resize", refold);
  new ResizeObserver(refold).observe($("prompt")); // also narrower beside the guideline
  new ResizeObserver(([bar]) => element.style.setProperty("--bar", `${bar.target.offsetHeight}px`)).observe($("bar"));
  // Somebody is at work: what they hold stays theirs.
  setInterval(() => card?.mode === "new" && !elsewhere && clock.restless() && server.renew({}), 5 * 60_000);

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dress);
  dress();
  speak(tongue.language);
  showKeys();
  showReady();
  showWaiting();
  claim();
  open();
}
