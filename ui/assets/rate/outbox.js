// Answers on their way to the server. An answer is stored in the browser before it is sent and removed once the server has
// confirmed it, so neither a lost connection nor a reload nor an expired session loses it. The server knows an answer by
// its id and counts it once, however often it is sent.
//
// An entry is stored as `outbox.ID`: { body, asked, who, at, tried }. Browsers hold entries of earlier versions: keep the shape.
function createOutbox(storage, send, { onWaiting, onSent }) {
  const SEND_DELAY = 40; // ms: the next comparison is drawn before the connection is used
  const FIRST_RETRY = 2000, LONGEST_RETRY = 30_000; // ms between tries
  let sendingId = null;
  let retryDelay = FIRST_RETRY;
  let timer = null;
  let rater = null;
  let isOpen = true;

  const nameOf = (id) => `outbox.${id}`;
  // The entries of this rater, oldest first. Those of other raters wait until these sign in again.
  function listEntries() {
    const entries = storage.listNames("outbox.").map((name) => storage.get(name));
    return entries.filter((entry) => entry && entry.who === rater).sort((a, b) => a.at - b.at);
  }
  async function sendAll() {
    clearTimeout(timer);
    if (sendingId !== null || !isOpen) return;
    for (let entry; isOpen && (entry = listEntries()[0]); ) {
      if (!navigator.onLine) return onWaiting("offline", listEntries().length);
      storage.set(nameOf(entry.body.id), { ...entry, tried: true }); // from now on the server may have it
      sendingId = entry.body.id;
      const answer = await send(entry.body);
      sendingId = null;
      const { kind, code } = answer.problem ?? {};
      if (kind === "offline" || kind === "server") {
        timer = setTimeout(sendAll, retryDelay);
        retryDelay = Math.min(2 * retryDelay, LONGEST_RETRY);
        return onWaiting(kind, listEntries().length);
      }
      if (kind === "role") return onWaiting(kind, listEntries().length);
      if (kind === "signed_out" || code === "other_account") return onWaiting("signed_out", listEntries().length);
      retryDelay = FIRST_RETRY;
      removeSent(entry, answer);
      onSent(entry, answer, listEntries().length);
    }
  }
  // Remove an entry the server has answered. If the rater changed the same answer in the meantime, the change stays and is
  // sent next, as a correction of the judgment just made. What the server refused is kept, too.
  function removeSent(entry, answer) {
    const newer = storage.get(nameOf(entry.body.id));
    storage.remove(nameOf(entry.body.id));
    if (answer.problem) storage.set("refused", [...storage.get("refused", []), { ...entry, problem: answer.problem }].slice(-20));
    if (newer && newer.at !== entry.at) {
      const body = answer.judgment ? { ...newer.body, id: answer.judgment, mode: "correct" } : newer.body;
      storage.set(nameOf(body.id), { ...newer, body });
    }
  }
  window.addEventListener("online", () => {
    retryDelay = FIRST_RETRY;
    sendAll();
  });
  return {
    sendAll,
    add(entry) {
      const previous = storage.get(nameOf(entry.body.id));
      storage.set(nameOf(entry.body.id), { ...entry, who: rater, at: Math.max(Date.now(), (previous?.at ?? 0) + 1) });
      clearTimeout(timer);
      timer = setTimeout(sendAll, SEND_DELAY);
    },
    // Remove and return the newest entry if it was never sent; else null.
    takeBack() {
      const entry = listEntries().at(-1);
      if (!entry || entry.tried) return null;
      storage.remove(nameOf(entry.body.id));
      return entry;
    },
    count: () => listEntries().length,
    has: (id) => listEntries().some((entry) => entry.body.id === id),
    listRefused: () => storage.get("refused", []).filter((entry) => entry.who === rater),
    setRater: (name) => (rater = name),
    open: () => (isOpen = true),
    close: () => (isOpen = false),
  };
}
