
// The votes beside a comparison that a lead decides: why it was sent, what each rater said and why. Who it was is not said.
function createVotes(page) {
  const { $, state, i18n: { t, formatNumber, formatList } } = page;

  // Show the votes of the card on the screen. What a lead has judged as a rater has none, also where it is corrected.
  function show() {
    const { votes, cause } = state.card;
    $("votes").hidden = !votes;
    if (!votes) return;
    $("votes-list").replaceChildren(...votes.map(createVote));
    $("votes-cause").textContent = cause ? explain(cause, votes) : "";
    $("votes-count").hidden = cause?.by === "rule" && page.cards.isPair(); // the cause has the counts
    $("votes-count").textContent = votes.length ? sumUp(votes) : t("votes_none");
  }
  // Why it was sent here: `Raters are split: 2 for A, 1 for B.`
  function explain({ by, name, reason }, votes) {
    if (by === "rule") return explainSplit(votes);
    const who = `\u2068${by === "command_line" ? t("command_line") : name}\u2069`;
    const sent = by === "catalog" ? t("sent_from_catalog", { name: who }) : reason ? t("sent_by_why", { name: who, reason: `\u2068${reason}\u2069` }) : t("sent_by", { name: who });
    return votes.some(({ said }) => said === "flagged_said") ? `${sent} ${t("sent_flagged")}` : sent;
  }
  function explainSplit(votes) {
    if (!page.cards.isPair()) return t("sent_split_many");
    const sides = votes.filter(({ kind }) => kind !== "judge").map(({ said }) => getSide(said));
    const say = {
      A_said: (n) => t("sent_for", { n, letter: "A" }),
      B_said: (n) => t("sent_for", { n, letter: "B" }),
      tie_said: (n) => t("sent_for_tie", { n }),
      all_bad_said: (n) => t("votes_for", { n, answer: nameAnswer("all_bad_said") }),
    };
    const given = Object.keys(say).filter((side) => sides.includes(side));
    return t("sent_split", { counts: formatList(given.map((side) => say[side](formatNumber(sides.filter((said) => said === side).length)))) });
  }
  const getSide = (said) => (/^key_[AB]/.test(said) ? `${said[4]}_said` : said);
  // How often each answer was given: `A is better: 2, Tie: 1`.
  function sumUp(votes) {
    const counts = new Map();
    for (const { said } of votes) {
      const side = getSide(said);
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
