
// The votes beside a comparison that a lead decides: what each rater said and why. Who it was is not said.
function createVotes(page) {
  const { $, state, i18n: { t, formatNumber } } = page;

  // Show the votes of the card on the screen. A judgment that is corrected has none.
  function show() {
    const { votes } = state.card;
    $("votes").hidden = !votes;
    if (!votes) return;
    $("votes-list").replaceChildren(...votes.map(createVote));
    $("votes-count").textContent = votes.length ? sumUp(votes) : t("votes_none");
  }
  // How often each answer was given: `A is better: 2, Tie: 1`.
  function sumUp(votes) {
    const counts = new Map();
    for (const { said } of votes) {
      const side = /^key_[AB]/.test(said) ? `${said[4]}_said` : said;
      counts.set(side, (counts.get(side) ?? 0) + 1);
    }
    return [...counts].map(([said, count]) => t("votes_for", { answer: nameAnswer(said), n: formatNumber(count) })).join(" · ");
  }
  const nameAnswer = (said) => t(said === "all_bad_said" && page.cards.isPair() ? "both_bad" : said);
  function createVote({ kind, said, ranking, reason, shown, why }, index) {
    const row = document.createElement("li");
    const who = t(kind === "judge" ? "vote_judge" : kind === "simulated" ? "vote_simulated" : "vote_rater", { n: formatNumber(index + 1) });
    const answer = ranking ? `\u2066${ranking}\u2069` : nameAnswer(said);
    const parts = [["who", who], ["said", [answer, reason && t(`reason_${reason}`)].filter(Boolean).join(" · ")], ["why", why || t("vote_no_reason")]];
    if (why && shown.length) parts.push(["note", t("vote_shown", { letters: `\u2066${shown.join(", ")}\u2069` })]);
    for (const [className, text] of parts) {
      const part = document.createElement(className === "why" ? "p" : "span");
      part.className = className;
      if (className === "why") part.dir = "auto";
      if (className === "why" && !why) part.classList.add("note");
      part.textContent = text;
      row.append(part);
    }
    return row;
  }
  return { show };
}
