// Active time: the time in which the page was visible and the rater gave a sign of activity within the last minute.
function createActiveTime(onVisibilityChange) {
  const IDLE_LIMIT = 60_000; // ms without activity after which time no longer counts
  let total = 0; // ms counted up to `countedUntil`
  let countedUntil = null; // null while the page is hidden
  let lastActivity = 0;

  function countUntilNow() {
    const now = performance.now();
    if (countedUntil !== null) total += Math.max(0, Math.min(now, lastActivity + IDLE_LIMIT) - countedUntil);
    countedUntil = document.visibilityState === "visible" ? now : null;
  }
  function recordActivity() {
    countUntilNow();
    lastActivity = performance.now();
  }
  for (const type of ["pointermove", "pointerdown", "keydown", "wheel", "scroll", "touchstart"])
    document.addEventListener(type, recordActivity, { passive: true, capture: true });
  document.addEventListener("visibilitychange", () => {
    recordActivity();
    onVisibilityChange();
  });
  return {
    // Begin to count for a card on which `seconds` were already spent.
    start(seconds) {
      total = seconds * 1000;
      lastActivity = performance.now();
      countedUntil = document.visibilityState === "visible" ? lastActivity : null;
    },
    seconds() {
      countUntilNow();
      return total / 1000;
    },
    isActive: () => performance.now() - lastActivity < IDLE_LIMIT,
  };
}
