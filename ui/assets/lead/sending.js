// Sending accepted comparisons to raters. For some seconds it can be taken back, and only then the server is asked, or
// earlier where the page is left. The row stays where it is all the while, so a second click finds the same comparison.
function createSending(onChange) {
  const SECONDS = 8; // in which it can be taken back
  const sendings = new Map(); // id → { state: "going", "sending", "sent", "gone" or "failed", until, timer, problem }

  function send(id) {
    const state = sendings.get(id)?.state;
    if (state && state !== "failed") return; // a second click changes nothing
    const timer = setTimeout(settle, SECONDS * 1000, id);
    sendings.set(id, { state: "going", until: Date.now() + SECONDS * 1000, timer });
    onChange(id);
  }
  // Returns whether it was still to be taken back.
  function takeBack(id) {
    const sending = sendings.get(id);
    if (sending?.state !== "going") return false;
    clearTimeout(sending.timer);
    sendings.delete(id);
    onChange(id);
    return true;
  }
  async function settle(id) {
    const sending = sendings.get(id);
    if (sending?.state !== "going") return;
    clearTimeout(sending.timer);
    sendings.set(id, { state: "sending" });
    onChange(id);
    const answer = await callSurely("escalate", { id });
    sendings.set(id, answer && !answer.problem ? { state: "sent", exported: answer.exported } : { state: "failed", problem: answer?.problem });
    onChange(id);
  }
  const settleAll = () => [...sendings.keys()].forEach(settle);
  // Note what became of a comparison without us: `route` is where it goes now.
  function noteRoute(id, route) {
    if (["going", "sending"].includes(sendings.get(id)?.state)) return; // the server's answer will say
    if (sendings.get(id)?.exported) return; // it has said more
    sendings.set(id, { state: route === "escalated" ? "sent" : "gone" });
    onChange(id);
  }
  const find = (id) => sendings.get(id) ?? { state: "accepted" };
  const secondsLeft = (id) => Math.max(0, Math.ceil((find(id).until - Date.now()) / 1000));

  setInterval(() => {
    for (const [id, { state }] of sendings) if (state === "going") onChange(id);
  }, 1000);
  // The page may never be seen again, and then no timer runs.
  document.addEventListener("visibilitychange", () => document.hidden && settleAll());
  window.addEventListener("pagehide", settleAll);
  return { SECONDS, send, takeBack, noteRoute, find, secondsLeft };
}
