// Active time: the page is in sight and something happened in the last minute. And what follows from it: the rater's own
// pace, and when a break is due.
function activeClock(onHidden) {
  const IDLE = 60_000; // ms without a sign of life after which the clock stands
  let total = 0, since = null, last = 0;

  function settle() {
    const now = performance.now();
    const more = since === null ? 0 : Math.max(0, Math.min(now, last + IDLE) - since);
    total += more;
    since = document.visibilityState === "visible" ? now : null;
    return more;
  }
  function alive() {
    settle();
    last = performance.now();
  }
  for (const sign of ["pointermove", "pointerdown", "keydown", "wheel", "scroll", "touchstart"])
    document.addEventListener(sign, alive, { passive: true, capture: true });
  document.addEventListener("visibilitychange", () => (alive(), onHidden()));
  return {
    start(seconds) {
      total = seconds * 1000;
      last = performance.now();
      since = document.visibilityState === "visible" ? last : null;
    },
    seconds() {
      settle();
      return total / 1000;
    },
    atWork: () => performance.now() - last < IDLE,
  };
}

// What a rater did since the page was opened or the last break: how fast, and whether it begins to drift.
function session() {
  const WORK = 45 * 60; // active seconds after which a break is due
  const PAUSE = 10 * 60_000; // ms away that are a break
  const RUN = 12; // the same choice so often in a row is worth a thought
  let answers = [], worked = 0, seen = Date.now();
  const median = (of) => [...of].sort((a, b) => a - b)[Math.floor(of.length / 2)];

  // Ten answers in less than a third of the time the first ten took, each a glance.
  function hurried() {
    if (answers.length < 30) return false;
    const [first, latest] = [answers.slice(0, 10), answers.slice(-10)].map((some) => median(some.map((a) => a.seconds)));
    return latest < 4 && latest < first / 3;
  }
  function stuck() {
    const latest = answers.slice(-RUN);
    return latest.length === RUN && latest.every((a) => a.choice !== null && a.choice === latest[0].choice);
  }
  function rest() {
    answers = [];
    worked = 0;
  }
  return {
    rest,
    // Returns why a break is due: "long", "hurried", "stuck", or null.
    add(seconds, choice) {
      if (Date.now() - seen > PAUSE + seconds * 1000) rest();
      seen = Date.now();
      worked += seconds;
      answers.push({ seconds, choice });
      if (worked >= WORK) return "long";
      return hurried() ? "hurried" : stuck() ? "stuck" : null;
    },
    // Comparisons an hour of active time; null before there is a minute to go by.
    pace: () => (worked < 60 ? null : Math.round((3600 * answers.length) / worked)),
  };
}
