// Answers on their way. One is put down in the browser before it is sent and struck out when the server says it has it,
// so neither a lost line nor a reload nor a lost session loses it. The server knows it by its key and counts it once.
function outbox(kept, send, told) {
  const FIRST_WAIT = 2000, LONGEST_WAIT = 30_000; // ms between tries
  let sending = null; // the id of the one under way
  let wait = FIRST_WAIT, timer = null, who = null, open = true;

  const name = (id) => `outbox.${who}.${id}`; // another rater's wait until they sign in again
  const mine = () => (who === null ? [] : kept.names(name("")).map((n) => kept.get(n)).sort((a, b) => a.at - b.at));
  const strike = (id) => kept.drop(name(id));

  async function run() {
    clearTimeout(timer);
    if (sending !== null || !open) return;
    for (let entry; open && (entry = mine()[0]); ) {
      sending = entry.body.id;
      const answer = await send(entry.body);
      sending = null;
      const kind = answer.problem?.kind;
      if (kind === "offline" || kind === "server") {
        timer = setTimeout(run, wait);
        wait = Math.min(2 * wait, LONGEST_WAIT);
        return told.waiting(kind, mine().length);
      }
      if (kind === "signed_out") return told.waiting(kind, mine().length);
      wait = FIRST_WAIT;
      strike(entry.body.id);
      told.sent(entry, answer, mine().length);
    }
  }
  window.addEventListener("online", () => ((wait = FIRST_WAIT), run()));
  return {
    run,
    put(entry) {
      kept.put(name(entry.body.id), { ...entry, at: Date.now() });
      return run();
    },
    // The newest answer back, if it is not under way yet; else null.
    takeBack() {
      const entry = mine().at(-1);
      if (!entry || entry.body.id === sending) return null;
      strike(entry.body.id);
      return entry;
    },
    waiting: () => mine().length,
    holds: (id) => mine().some((entry) => entry.body.id === id),
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
