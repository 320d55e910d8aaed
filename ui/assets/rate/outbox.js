// Answers on their way. One is put down in the browser before it is sent and struck out when the server says it has it,
// so neither a lost line nor a reload nor a lost session loses it. The server knows it by its key and counts it once.
function outbox(kept, send, told) {
  const SOON = 40; // ms: first the next comparison is drawn, then the line is used
  const FIRST_WAIT = 2000, LONGEST_WAIT = 30_000; // ms between tries
  let sending = null; // the id of the one under way
  let wait = FIRST_WAIT, timer = null, who = null, open = true;

  const name = (id) => `outbox.${id}`;
  // Another rater's wait until they sign in again.
  const mine = () => kept.names("outbox.").map((n) => kept.get(n)).filter((e) => e && e.who === who).sort((a, b) => a.at - b.at);

  async function run() {
    clearTimeout(timer);
    if (sending !== null || !open) return;
    for (let entry; open && (entry = mine()[0]); ) {
      if (!navigator.onLine) return told.waiting("offline", mine().length);
      kept.put(name(entry.body.id), { ...entry, tried: true }); // from now on the server may have it
      sending = entry.body.id;
      const answer = await send(entry.body);
      sending = null;
      const { kind, code } = answer.problem ?? {};
      if (kind === "offline" || kind === "server") {
        timer = setTimeout(run, wait);
        wait = Math.min(2 * wait, LONGEST_WAIT);
        return told.waiting(kind, mine().length);
      }
      if (kind === "signed_out" || code === "other_account") return told.waiting("signed_out", mine().length);
      wait = FIRST_WAIT;
      settle(entry, answer);
      told.sent(entry, answer, mine().length);
    }
  }
  // Strikes an entry out. What was said of the same thing meanwhile is not lost with it: it goes out next, as a
  // correction of what was just kept. What the server refuses stays in the browser, too.
  function settle(entry, answer) {
    const newer = kept.get(name(entry.body.id));
    kept.drop(name(entry.body.id));
    if (answer.problem) kept.put("refused", [...kept.get("refused", []), { ...entry, problem: answer.problem }].slice(-20));
    if (newer && newer.at !== entry.at) {
      const body = answer.judgment ? { ...newer.body, id: answer.judgment, mode: "correct" } : newer.body;
      kept.put(name(body.id), { ...newer, body });
    }
  }
  window.addEventListener("online", () => ((wait = FIRST_WAIT), run()));
  return {
    run,
    put(entry) {
      const before = kept.get(name(entry.body.id));
      kept.put(name(entry.body.id), { ...entry, who, at: Math.max(Date.now(), (before?.at ?? 0) + 1) });
      clearTimeout(timer);
      timer = setTimeout(run, SOON);
    },
    // The newest answer back, if the server cannot have it yet; else null.
    takeBack() {
      const entry = mine().at(-1);
      if (!entry || entry.tried) return null;
      kept.drop(name(entry.body.id));
      return entry;
    },
    waiting: () => mine().length,
    holds: (id) => mine().some((entry) => entry.body.id === id),
    refused: () => kept.get("refused", []).filter((entry) => entry.who === who),
    belongTo: (rater) => (who = rater),
    set open(yes) {
      open = yes;
    },
  };
}

// One tab at a time is the desk: the one opened last. `yielded` is called in the others.
function oneTab(yielded) {
  if (!("BroadcastChannel" in window)) return () => {};
  const channel = new BroadcastChannel("rlhf_hitl.desk");
  channel.addEventListener("message", yielded);
  return () => channel.postMessage("mine");
}
