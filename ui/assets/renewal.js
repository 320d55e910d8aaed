// A page renews itself while it is to be seen. `load(isQuiet)` loads and draws what is new and resolves to whether that
// worked; where it `isQuiet`, nobody asked, and nothing that is being read or used may move. `onEnd` is told the outcome.
function createRenewal(load, onEnd) {
  const PAUSE = 20_000; // ms between two renewals
  const LEAST_REST = 20; // and at least so many times what the last one took: a large store is not asked all the time
  let timer, dueAt = Infinity, running = null;

  async function run(isQuiet) {
    clearTimeout(timer);
    if (running) await running;
    running = renew(isQuiet);
    await running;
  }
  async function renew(isQuiet) {
    const begun = Date.now();
    const isRenewed = await load(isQuiet);
    const ended = Date.now();
    running = null;
    onEnd(isRenewed);
    dueAt = ended + Math.max(PAUSE, LEAST_REST * (ended - begun));
    wait();
  }
  function wait() {
    clearTimeout(timer);
    if (!document.hidden && !running) timer = setTimeout(run, Math.max(0, dueAt - Date.now()), true);
  }
  document.addEventListener("visibilitychange", wait);
  return { reload: () => run(false) };
}
