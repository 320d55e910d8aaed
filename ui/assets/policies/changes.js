// What changed: the same prompt before and after, a page at a time. `address` keeps what is chosen.
function createChangesView(dashboard, server, address) {
  const { element, $, t, formatNumber, checkAnswer } = dashboard;
  const TYPING_PAUSE = 300; // ms after which a search begins
  let latest = 0; // the newest question; answers to older ones are not drawn
  let next = null; // where the next page begins
  let typingTimer;

  // Offer the policies to choose from; at first one that was tuned and what it was made of.
  function setChoices(names, lines) {
    const known = names.map(({ value }) => value);
    const pairs = lines.filter(({ name, parent }) => parent && known.includes(name) && known.includes(parent));
    const { name: after, parent: before } = pairs.at(-1) ?? { name: known[1] ?? "", parent: known[0] ?? "" };
    const chosen = { before, after, ...address.read() };
    for (const side of ["before", "after"]) {
      const options = names.map(({ value, label }) => [value, label]);
      if (chosen[side] && !known.includes(chosen[side])) options.push([chosen[side], chosen[side]]);
      fillSelect($(side), options);
      $(side).value = chosen[side];
    }
    if (document.activeElement !== $("words")) $("words").value = chosen.words ?? "";
    $("decided").checked = chosen.decided === "1";
    $("changes-panel").hidden = known.length < 2;
    return known.length > 1;
  }
  async function load(start = "") {
    const question = ++latest;
    const request = { before: $("before").value, after: $("after").value, words: $("words").value.trim(), decided: $("decided").checked, start };
    $("changes-list").setAttribute("aria-busy", "true");
    const answer = await server.changes(request);
    if (question !== latest) return;
    $("changes-list").removeAttribute("aria-busy");
    if (!checkAnswer(answer)) return;
    next = answer.next;
    const counted = [t("policies_shared", { n: formatNumber(answer.total) })];
    if (answer.hidden) counted.push(t("policies_being_judged", { n: formatNumber(answer.hidden) }));
    $("changes-count").textContent = counted.join(" · ");
    $("changes-first").setAttribute("aria-disabled", String(!start));
    $("changes-next").setAttribute("aria-disabled", String(next === null));
    $("changes-pages").hidden = !start && next === null;
    const empty = answer.changes.length ? "" : describeEmpty(answer);
    $("changes-empty").textContent = empty;
    $("changes-empty").hidden = !empty;
    $("changes-list").replaceChildren(...answer.changes.map(createChange));
    makeScrollable($("changes-list"));
  }
  function describeEmpty({ total, next: more, looked_at: lookedAt }) {
    if (!total) return t("policies_none_shared");
    return more ? t("policies_search_on", { n: formatNumber(lookedAt) }) : t("policies_none_found");
  }
  function createChange(change) {
    const { prompt, before, after, same, unlike, answers, decisions, tags } = change;
    const asked = createElement("div", { className: "asked", tabIndex: 0, role: "group", attributes: { "aria-label": t("conversation") } }, ...parseHtml(prompt));
    const facts = tags.map((tag) => createElement("li", {}, createElement("bdi", {}, tag)));
    for (const [population, { after: won, tie, before: lost }] of Object.entries(decisions)) {
      const side = won > lost ? "after" : won < lost ? "before" : "";
      const all = formatNumber(won + tie + lost);
      const parts = side ? [t(`policies_prefer_${side}`, { n: formatNumber(Math.max(won, lost)), all })] : [t("policies_prefer_neither", { n: formatNumber(won), all })];
      if (tie) parts.push(t("policies_ties", { n: formatNumber(tie) }));
      const text = (won || lost ? parts : parts.slice(1)).join(" · ");
      facts.unshift(createElement("li", { className: `decided ${side} ${population}` }, `${t(`votes_of_${population}`)}: ${text}`));
    }
    if (unlike) facts.unshift(createElement("li", {}, t("policies_unlike")));
    if (same) facts.unshift(createElement("li", { className: "decided" }, t("policies_same_text")));
    const sides = [
      ["before", before, answers[0]],
      ["after", after, answers[1]],
    ].map(([side, html, n]) => createAnswer(side, html, n));
    const card = createElement("article", { className: "change", attributes: { "aria-label": t("policies_changes") } }, asked);
    if (facts.length) card.append(createElement("ul", { className: "facts" }, ...facts));
    card.append(createElement("div", { className: "answers" }, ...sides));
    return card;
  }
  function createAnswer(side, html, n) {
    const of = n > 1 ? createElement("span", { className: "note" }, t("policies_one_of", { n: formatNumber(n) })) : "";
    const head = createElement("header", {}, createElement("h3", {}, t(`policies_${side}`)), createElement("bdi", { className: "note policy" }, $(side).selectedOptions[0]?.textContent ?? ""), of);
    return createElement("section", { className: `answer ${side}` }, head, createElement("div", { className: "answer-text" }, ...parseHtml(html)));
  }
  function choose(before, after) {
    for (const [side, name] of [["before", before], ["after", after]]) {
      if (![...$(side).options].some(({ value }) => value === name)) $(side).append(createElement("option", { value: name }, name));
      $(side).value = name;
    }
    changed();
    $("changes-title").focus();
    $("changes-title").scrollIntoView();
  }
  function changed() {
    address.change({ before: $("before").value, after: $("after").value, words: $("words").value.trim(), decided: $("decided").checked ? "1" : "" });
    load();
  }
  $("changes-form").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["before", "after", "decided"]) $(id).addEventListener("change", changed);
  $("words").addEventListener("input", () => {
    clearTimeout(typingTimer);
    typingTimer = setTimeout(changed, TYPING_PAUSE);
  });
  $("changes-first").addEventListener("click", () => $("changes-first").getAttribute("aria-disabled") === "true" || load());
  $("changes-next").addEventListener("click", () => next !== null && load(next).then(() => $("changes-title").scrollIntoView()));
  createPictureViewer(element, t);
  return { setChoices, load, choose };
}
