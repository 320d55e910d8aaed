// The rater's pace since the page was opened or since the last break, and whether a break is due.
function createPace() {
  const WORK_LIMIT = 45 * 60; // active seconds after which a break is due
  const BREAK_LENGTH = 10 * 60_000; // ms of absence that count as a break
  const SAME_CHOICE_LIMIT = 12; // this many equal choices in a row are pointed out
  let answers = []; // { seconds, choice }
  let activeSeconds = 0;
  let lastAnswerAt = Date.now();

  function reset() {
    answers = [];
    activeSeconds = 0;
  }
  function medianSeconds(some) {
    const sorted = some.map((answer) => answer.seconds).sort((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)];
  }
  // Whether the last ten answers took under 4 s each and less than a third of the time of the first ten.
  function isHurried() {
    if (answers.length < 30) return false;
    const first = medianSeconds(answers.slice(0, 10)), latest = medianSeconds(answers.slice(-10));
    return latest < 4 && latest < first / 3;
  }
  function isStuck() {
    const latest = answers.slice(-SAME_CHOICE_LIMIT);
    return latest.length === SAME_CHOICE_LIMIT && latest.every(({ choice }) => choice !== null && choice === latest[0].choice);
  }
  return {
    reset,
    // Record an answer. Returns why a break is due: "long", "hurried", "stuck", or null.
    record(seconds, choice) {
      if (Date.now() - lastAnswerAt > BREAK_LENGTH + seconds * 1000) reset();
      lastAnswerAt = Date.now();
      activeSeconds += seconds;
      answers.push({ seconds, choice });
      if (activeSeconds >= WORK_LIMIT) return "long";
      return isHurried() ? "hurried" : isStuck() ? "stuck" : null;
    },
    // Comparisons per hour of active time; null in the first minute.
    perHour: () => (activeSeconds < 60 ? null : Math.round((3600 * answers.length) / activeSeconds)),
  };
}
