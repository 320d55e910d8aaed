// The rater page. `element` holds rate.html; `server` has open, submit and undo, each a call to ui/desk.py.
function rate(element, server) {
  const IDLE = 60_000; // ms without a sign of life after which the clock stands
  const $ = (id) => element.querySelector(`#${id}`);
  const choices = [...element.querySelectorAll("[data-choice]")];
  const rationale = $("rationale");
  const KEYS = { 1: "A3", 2: "A2", 3: "A1", 4: "tie", 0: "tie", 5: "B1", 6: "B2", 7: "B3", b: "all_bad", s: "skipped", f: "flagged" };

  let card = null; // what the server last gave
  let choice = null; // a data-choice, or null
  let ranks = []; // K-wise: a rank or null for each answer shown
  let mark = 0; // K-wise: which answer digits rank
  let busy = false;
  let retry = null;

  // --- active time: the page is in sight and something happened in the last minute
  const clock = { total: 0, since: null, last: 0 };
  function settle() {
    const now = performance.now();
    if (clock.since !== null) clock.total += Math.max(0, Math.min(now, clock.last + IDLE) - clock.since);
    clock.since = document.visibilityState === "visible" ? now : null;
  }
  function alive() {
    settle();
    clock.last = performance.now();
  }
  function startClock(seconds) {
    clock.total = seconds * 1000;
    clock.last = performance.now();
    clock.since = document.visibilityState === "visible" ? clock.last : null;
  }
  for (const sign of ["pointermove", "pointerdown", "keydown", "wheel", "scroll", "touchstart"])
    document.addEventListener(sign, alive, { passive: true, capture: true });
  document.addEventListener("visibilitychange", () => (settle(), (clock.last = performance.now()), saveDraft()));

  // --- drafts: an answer that is not sent yet survives a reload, a lost line and a lost session
  const SHELF = "rlhf_hitl.drafts";
  function shelf() {
    try {
      return JSON.parse(localStorage.getItem(SHELF)) || {};
    } catch {
      return {};
    }
  }
  function putShelf(drafts) {
    try {
      localStorage.setItem(SHELF, JSON.stringify(Object.fromEntries(Object.entries(drafts).slice(-5))));
    } catch {
      // Storage may be full or forbidden; the answer is then kept in the page alone.
    }
  }
  function saveDraft() {
    if (!card?.id) return;
    settle();
    const { [card.id]: _, ...rest } = shelf();
    putShelf({ ...rest, [card.id]: { choice, ranks, rationale: rationale.value, active: clock.total / 1000 } });
  }
  function dropDraft(id) {
    const { [id]: _, ...rest } = shelf();
    putShelf(rest);
  }

  // --- the line to the server
  async function call(name, body) {
    const day = new Date();
    day.setHours(0, 0, 0, 0);
    const answer = await server[name]({ ...body, day: day.toISOString() });
    if (answer) return answer;
    // Gradio does not say why a call failed, so ask.
    try {
      const me = await fetch("../me", { cache: "no-store" });
      return { problem: { kind: me.status === 401 || me.status === 403 ? "signed_out" : "server" } };
    } catch {
      return { problem: { kind: "offline" } };
    }
  }
  const WORDS = {
    offline: "No connection. Your answer is kept here and goes out by itself when the line is back.",
    server: "The server does not answer. Your answer is kept here and is sent again by itself.",
    signed_out: "You are signed out. Your answer is kept in this browser: sign in, then submit it again.",
  };
  function trouble(problem, again) {
    const parts = [problem.kind === "server" || !problem.text ? WORDS[problem.kind] : problem.text];
    if (problem.kind === "offline" || problem.kind === "server") {
      retry = setTimeout(again, 3000);
      tell(parts[0], ["Try now", again]);
    } else if (problem.kind === "signed_out") {
      tell(parts[0], ["Sign in", () => location.assign("../login")]);
    } else if (problem.kind === "conflict") {
      tell(`${parts[0]} What you wrote is still below.`, ["Next comparison", () => (dropDraft(card?.id), open())]);
    } else tell(parts[0]);
  }
  window.addEventListener("online", () => retry && element.querySelector("#notice button")?.click());
  function tell(text, action) {
    const notice = $("notice");
    notice.replaceChildren(document.createTextNode(text));
    if (action) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = action[0];
      button.addEventListener("click", action[1]);
      notice.append(button);
    }
    notice.hidden = false;
  }
  function quiet() {
    clearTimeout(retry);
    retry = null;
    $("notice").hidden = true;
  }

  async function exchange(name, body, then) {
    if (busy) return;
    clearTimeout(retry);
    setBusy(true);
    const answer = await call(name, body);
    setBusy(false);
    if (answer.problem) return trouble(answer.problem, () => exchange(name, body, then));
    quiet();
    then(answer);
  }
  function setBusy(on) {
    busy = on;
    $("desk").setAttribute("aria-busy", String(on));
    showReady();
  }
  const open = () => exchange("open", {}, (answer) => draw(answer.card));

  // --- drawing
  function draw(next) {
    card = next;
    const empty = card.mode === "empty";
    $("empty").hidden = !empty;
    $("card").hidden = $("bar").hidden = empty;
    const { done, left, name } = card.progress;
    $("progress").innerHTML = `<b>${done}</b> today · <b>${left}</b> left for you`;
    $("who").textContent = name;
    if (empty) {
      $("prompt").replaceChildren();
      $("answers").replaceChildren();
      return announce("Nothing left for you to judge");
    }

    $("prompt").innerHTML = card.prompt; // HTML made by ui/markdown.py, which lets nothing of the text's own through
    $("answers").replaceChildren(...card.answers.map(answerPanel));
    const pair = card.answers.length === 2;
    $("scale").hidden = !pair;
    $("kwise").hidden = pair;
    $("bad-label").textContent = pair ? "Both bad" : "All bad";
    fold();

    const draft = shelf()[card.id] ?? given(card.answer);
    rationale.value = draft.rationale ?? "";
    ranks = draft.ranks?.length === card.answers.length ? draft.ranks : card.answers.map(() => null);
    mark = 0;
    pick(draft.choice ?? null);
    startClock(draft.active ?? 0);
    if (card.mode === "correct") tell("You are changing your last answer.", ["Leave it as it was", () => (dropDraft(card.id), open())]);
    window.scrollTo(0, 0);
    const box = $("prompt"); // where the conversation is long, its last turn is what is answered
    box.scrollTop = box.lastElementChild.offsetTop - box.offsetTop - 16;
    $("prompt").focus({ preventScroll: true, focusVisible: false });
    announce(card.mode === "correct" ? "Your last answer" : "Next comparison");
  }
  function announce(text) {
    $("announce").textContent = text;
  }
  function given(answer) {
    if (!answer) return {};
    const { verdict, ranks: [a, b], strength } = answer;
    const pair = card.answers.length === 2;
    let chosen = verdict === "ranked" ? null : verdict;
    if (verdict === "ranked" && pair) chosen = a === b ? "tie" : `${a < b ? "A" : "B"}${strength ?? 1}`;
    return { choice: chosen, ranks: answer.ranks, rationale: answer.rationale, active: answer.active };
  }
  function answerPanel({ letter, html }, at) {
    const panel = document.createElement("section");
    panel.className = "answer";
    panel.dataset.at = at;
    panel.setAttribute("aria-label", `Answer ${letter}`);
    panel.innerHTML = `<header><h2 class="letter">${letter}</h2></header><div class="said">${html}</div>`;
    if (card.answers.length > 2) panel.firstElementChild.append(rankButtons(letter, at));
    return panel;
  }
  function rankButtons(letter, at) {
    const group = document.createElement("div");
    group.className = "ranks";
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `Rank of answer ${letter}`);
    for (let rank = 1; rank <= card.answers.length; rank++) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = rank;
      button.setAttribute("aria-label", `Answer ${letter}: rank ${rank}`);
      button.addEventListener("click", () => setRank(at, rank));
      group.append(button);
    }
    return group;
  }
  function fold(all = false) {
    const answers = $("answers");
    const limit = Math.max(320, Math.round(window.innerHeight * 0.9));
    answers.classList.remove("folded");
    const long = [...answers.children].some((panel) => panel.scrollHeight > limit * 1.15);
    answers.style.setProperty("--fold", `${limit}px`);
    answers.classList.toggle("folded", long && !all);
    $("unfold").hidden = !long;
    const button = $("unfold").firstElementChild;
    button.textContent = all ? "Fold the answers" : "Show all of the answers";
    button.setAttribute("aria-expanded", String(all));
  }

  // --- choosing
  function pick(name) {
    choice = name;
    if (name !== null && card.answers.length > 2) ranks = card.answers.map(() => null);
    show();
  }
  function setRank(at, rank) {
    choice = null;
    ranks[at] = ranks[at] === rank ? null : rank;
    const unranked = ranks.indexOf(null);
    mark = unranked < 0 ? at : unranked;
    show();
    saveDraft();
  }
  function show() {
    for (const button of choices) button.setAttribute("aria-pressed", String(button.dataset.choice === choice));
    const best = Math.min(...ranks.filter((r) => r !== null));
    [...$("answers").children].forEach((panel, at) => {
      const pair = card.answers.length === 2;
      panel.classList.toggle("better", pair ? choice?.[0] === "AB"[at] && choice.length === 2 : ranks[at] === best);
      panel.classList.toggle("marked", !pair && at === mark);
      panel.querySelectorAll(".ranks button").forEach((b, i) => b.setAttribute("aria-pressed", String(ranks[at] === i + 1)));
    });
    showReady();
  }
  function ready() {
    return choice !== null || (card?.answers?.length > 2 && ranks.every((r) => r !== null));
  }
  function showReady() {
    $("submit").disabled = busy || !ready();
    $("undo").disabled = $("undo-empty").disabled = busy;
  }
  function answered() {
    if (["all_bad", "skipped", "flagged"].includes(choice)) return { verdict: choice };
    if (card.answers.length > 2) return { verdict: "ranked", ranks };
    if (choice === "tie") return { verdict: "ranked", ranks: [1, 1] };
    return { verdict: "ranked", ranks: choice[0] === "A" ? [1, 2] : [2, 1], strength: Number(choice[1]) };
  }
  function submit() {
    if (busy || card?.mode === "empty" || !ready()) return;
    saveDraft(); // settles the clock, too
    const { id, mode } = card;
    const body = { id, mode, ...answered(), rationale: rationale.value, active_seconds: clock.total / 1000 };
    exchange("submit", body, (answer) => {
      dropDraft(id);
      draw(answer.card);
      if (answer.outcome === "surplus")
        tell("Your time for that one had run out and others had answered. Your answer is kept, but counted as extra.");
      if (answer.outcome === "repeated") tell("That comparison had your answer already. The first one stands.");
    });
  }
  function undo() {
    if (card?.mode === "correct") return;
    saveDraft();
    exchange("undo", {}, (answer) => draw(answer.card));
  }

  // --- hands
  for (const button of choices)
    button.addEventListener("click", (event) => {
      if (event.detail > 2) return; // the tail of a burst of clicks belongs to the comparison before
      if (choice === button.dataset.choice) return submit();
      pick(button.dataset.choice);
      saveDraft();
    });
  $("submit").addEventListener("click", submit);
  $("undo").addEventListener("click", undo);
  $("undo-empty").addEventListener("click", undo);
  $("refresh").addEventListener("click", open);
  $("unfold").firstElementChild.addEventListener("click", () => fold($("answers").classList.contains("folded")));
  $("open-help").addEventListener("click", () => $("help").showModal());
  $("open-guide").addEventListener("click", () => $("guide").showModal());
  rationale.addEventListener("input", saveDraft);

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || !card) return;
    const target = event.target;
    if (target.matches?.("textarea, input, select, [contenteditable]")) {
      if (event.key === "Escape") target.blur();
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.preventDefault(), submit();
      return;
    }
    if (event.repeat || element.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ((event.ctrlKey || event.metaKey) && key === "z") return event.preventDefault(), undo();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (key === "Enter" || key === " ") {
      if (key === "Enter" && !target.closest?.("button, a, summary")) event.preventDefault(), submit();
      return; // on a button they press it
    }
    const many = card.answers?.length > 2;
    const acts = { r: () => rationale.focus(), u: undo, g: () => $("guide").showModal(), "?": () => $("help").showModal() };
    if (many && /^[1-9]$/.test(key) && key <= card.answers.length) acts[key] = () => setRank(mark, Number(key));
    if (many && key === "ArrowRight") acts[key] = () => ((mark = (mark + 1) % ranks.length), show());
    if (many && key === "ArrowLeft") acts[key] = () => ((mark = (mark + ranks.length - 1) % ranks.length), show());
    const name = KEYS[key];
    if (name && card.mode !== "empty" && !(many && /^\d$/.test(key))) acts[key] ??= () => (pick(name), saveDraft());
    if (card.mode === "empty" && key === "r") delete acts.r;
    if (acts[key]) event.preventDefault(), acts[key]();
  });
  window.addEventListener("resize", () => fold(!$("answers").classList.contains("folded") && !$("unfold").hidden));
  new ResizeObserver(([bar]) => element.style.setProperty("--bar", `${bar.target.offsetHeight}px`)).observe($("bar"));

  showReady();
  open();
}
