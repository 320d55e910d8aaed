// How the page of policies draws the ranking: a dot with its interval on one axis, who beats whom, and what style is worth.
function createRankingView({ $, t, language, formatNumber }) {
  const NONE = "—";
  const BUCKETS = 5; // shades on each side of one half
  const percent = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 });
  const precise = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 2 });
  const points = new Intl.NumberFormat(language, { maximumFractionDigits: 0, useGrouping: false });
  const change = new Intl.NumberFormat(language, { maximumFractionDigits: 0, signDisplay: "exceptZero" });
  const weight = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
  const logits = new Intl.NumberFormat(language, { maximumFractionDigits: 2, minimumFractionDigits: 2, signDisplay: "exceptZero" });

  function show(answer) {
    const { policies, style } = answer;
    $("ranking").hidden = false;
    $("ranking-empty").hidden = policies.length > 0;
    $("ranked").hidden = !policies.length;
    $("simulated").hidden = answer.population !== "simulated";
    $("ranking-count").textContent = t("policies_count", { votes: formatNumber(answer.votes), prompts: formatNumber(answer.prompts) });
    $("plain-head").hidden = !style.length;
    $("win-head").textContent = answer.base ? t("policies_win_rate", { base: answer.base }) : t("policies_win_rate_average");
    showFilters(answer);
    showRanked(answer);
    showNotes(answer);
    showStyle(style);
    showMatrix(answer);
  }

  function showFilters({ population, counts, languages, tags }) {
    const populations = ["people", "judges", "simulated"].filter((name) => counts[name] || name === population);
    fillSelect($("votes"), populations.map((name) => [name, t("policies_judgments_of", { who: t(`votes_of_${name}`), n: formatNumber(counts[name] ?? 0) })]));
    $("votes").value = population;
    const chosen = readAddress();
    const offered = (values) => values.map(({ value, n, label }) => [value, t("policies_pairs_of", { name: label ?? value, n: formatNumber(n) })]);
    fillSelect($("language"), [["", t("policies_any")], ...withChosen(offered(languages), chosen.language)]);
    $("language").value = chosen.language ?? "";
    const ofTags = tags.map(({ name, value, label, n }) => [JSON.stringify([name, value]), t("policies_pairs_of", { name: label, n: formatNumber(n) })]);
    fillSelect($("tag"), [["", t("policies_any")], ...withChosen(ofTags, chosen.tag)]);
    $("tag").value = chosen.tag ?? "";
    $("style").checked = chosen.style === "1";
  }
  // What the address names stays chosen though nothing is like that.
  const withChosen = (options, chosen) => (!chosen || options.some(([value]) => value === chosen) ? options : [...options, [chosen, chosen]]);

  function showRanked(answer) {
    const ends = answer.policies.flatMap(({ rating, low, high }) => [rating, low ?? rating, high ?? rating]);
    const room = 0.04 * (Math.max(...ends) - Math.min(...ends)) || 50;
    const axis = [Math.min(...ends) - room, Math.max(...ends) + room];
    const rows = [];
    answer.policies.forEach((policy, index) => {
      if (answer.groups > 1 && policy.group !== answer.policies[index - 1]?.group) rows.push(createGroupRow(policy.group, answer));
      rows.push(createRanked(policy, axis, answer));
    });
    redraw($("ranked-rows"), ...rows);
  }
  function createGroupRow(group, { style }) {
    const text = t("policies_group", { n: formatNumber(group + 1) });
    const cell = createElement("th", { scope: "rowgroup", colSpan: style.length ? 7 : 6, attributes: { role: "rowheader" } }, text);
    return createElement("tr", { className: "group-row", data: { key: `group ${group}` }, attributes: { role: "row" } }, cell);
  }
  function createRanked(policy, axis, { base, style }) {
    const marks = [];
    if (policy.policy === base) marks.push(createElement("span", { className: "state" }, t("policies_is_base")));
    if (policy.held) marks.push(createElement("span", { className: "state paused" }, t(policy.swept ? `policies_${policy.swept}_all` : "policies_held")));
    const cells = [
      createElement("td", { className: "numeric rank", data: { label: t("policies_rank") }, attributes: { role: "cell" } }, formatNumber(policy.rank)),
      createElement("th", { scope: "row", attributes: { role: "rowheader" } }, createElement("bdi", {}, policy.policy), " ", ...marks),
      createCell(t("policies_rating"), "", createRatingPlot(policy, axis)),
    ];
    if (style.length) cells.push(createCell(t("policies_without_style"), "numeric", createPlain(policy)));
    cells.push(
      createCell($("win-head").textContent, "", policy.policy === base ? createElement("span", { className: "soft" }, t("policies_is_base")) : createWinRate(policy)),
      createCell(t("policies_votes"), "numeric", weight.format(policy.votes)),
      createCell(t("policies_prompts"), "numeric", formatNumber(policy.prompts)),
    );
    return createElement("tr", { data: { key: policy.policy }, attributes: { role: "row" } }, ...cells);
  }
  function describeInterval({ low, high }) {
    if (low === null && high === null) return t("policies_no_interval");
    if (high === null) return t("policies_at_least", { low: points.format(low) });
    if (low === null) return t("policies_at_most", { high: points.format(high) });
    return t("plot_interval", { low: points.format(low), high: points.format(high) });
  }
  function createRatingPlot(policy, axis) {
    const { rating, low, high } = policy;
    const interval = describeInterval(policy);
    const label = t("policies_plot", { name: policy.policy, rating: points.format(rating), interval });
    const unknown = low === null && high === null;
    const plot = createDotPlot({ value: rating, low: unknown ? rating : low ?? axis[0], high: unknown ? rating : high ?? axis[1] }, axis, 1000, label);
    const value = createElement("span", { className: "value", attributes: { "aria-hidden": "true" } }, createElement("b", {}, points.format(rating)), " ", createElement("small", {}, interval));
    return createElement("div", { className: "plot" }, plot, value);
  }
  function createPlain({ rating, plain_rating: plain, plain_rank: rank }) {
    const moved = createElement("small", { className: "soft" }, ` (${change.format(rating - plain)})`);
    return createElement("span", {}, t("policies_plain", { rating: points.format(plain), rank: formatNumber(rank) }), moved);
  }
  function createWinRate({ win_rate: value, win_low: low, win_high: high }) {
    if (value === null) return createElement("span", { className: "soft" }, NONE);
    const interval = low === null ? "" : ` ${t("plot_interval", { low: percent.format(low), high: percent.format(high) })}`;
    return createElement("span", {}, percent.format(value), createElement("small", { className: "soft" }, interval));
  }

  function showNotes(answer) {
    const notes = [t("policies_note_scale")];
    if (answer.population === "simulated") notes.push(t("policies_note_simulated"));
    if (answer.groups > 1) notes.push(t("policies_note_groups", { n: formatNumber(answer.groups) }));
    if (answer.policies.some(({ held }) => held)) notes.push(t("policies_note_held"));
    if (answer.is_stretched) notes.push(t("policies_note_ties", { share: precise.format(answer.tie_rate) }));
    if (answer.policies.some(({ low, high }) => low === null && high === null)) notes.push(t("policies_note_few", { n: formatNumber(answer.min_prompts) }));
    if (answer.policies_left_out) notes.push(t("policies_note_more", { n: formatNumber(answer.policies_left_out) }));
    const items = notes.map((text) => createElement("li", {}, text));
    for (const { reason, n } of answer.left_out) items.push(createElement("li", {}, t(`policies_left_out_${reason}`, { n: formatNumber(n) })));
    redraw($("ranking-notes"), ...(answer.policies.length ? items : items.slice(1)));
  }

  function showStyle(style) {
    $("style-panel").hidden = !style.length;
    const reach = Math.max(0.1, ...style.flatMap(({ low, high }) => [Math.abs(low), Math.abs(high)]));
    redraw($("style-rows"), ...style.map((worth) => createStyleRow(worth, reach)));
  }
  function createStyleRow({ feature, value, low, high }, reach) {
    const name = t(`style_${feature}`);
    const interval = t("plot_interval", { low: logits.format(low), high: logits.format(high) });
    const plot = createDotPlot({ value, low, high }, [-reach, reach], 0, `${name}: ${logits.format(value)}, 95 %: ${interval}`);
    const text = createElement("span", { className: "value", attributes: { "aria-hidden": "true" } }, createElement("b", {}, logits.format(value)), " ", createElement("small", {}, interval));
    return createElement("div", { data: { key: feature } }, createElement("dt", {}, name), createElement("dd", { className: "plot" }, plot, text));
  }

  function showMatrix({ policies, wins, ties }) {
    const shown = policies.slice(0, wins.length);
    $("matrix-panel").hidden = shown.length < 2;
    if (shown.length < 2) return;
    // Names and no numbers, which would be taken for ranks.
    const heads = shown.map(({ policy }) => createElement("th", { scope: "col", data: { key: policy } }, createElement("bdi", { title: policy }, policy)));
    redraw($("matrix-head"), createElement("tr", {}, createElement("th", { scope: "col" }, t("policies_policy")), ...heads));
    redraw($("matrix-rows"), ...shown.map(({ policy }, row) => createMatrixRow(policy, row, wins, ties)));
    markHiddenPart();
    const left = policies.length - shown.length;
    $("matrix-note").textContent = left ? t("policies_note_more", { n: formatNumber(left) }) : "";
  }
  function createMatrixRow(policy, row, wins, ties) {
    const cells = wins[row].map((won, column) => {
      const n = won + wins[column][row] + ties[row][column];
      if (row === column || !n) return createElement("td", { className: "none" }, row === column ? "" : NONE);
      const share = (won + ties[row][column] / 2) / n;
      const shade = Math.round((share - 0.5) * 2 * BUCKETS);
      const side = shade > 0 ? `more-${shade}` : shade < 0 ? `less-${-shade}` : "";
      return createElement("td", { className: side }, createElement("b", {}, percent.format(share)), createElement("small", {}, weight.format(n)));
    });
    const head = createElement("th", { scope: "row" }, createElement("bdi", {}, policy));
    return createElement("tr", { data: { key: policy } }, head, ...cells);
  }
  // Where columns do not fit, the edge fades and a note says that there are more.
  function markHiddenPart() {
    const box = $("matrix-box");
    const room = box.scrollWidth - box.clientWidth;
    $("matrix-scrolls").hidden = room < 2;
    box.classList.toggle("more", room - Math.abs(box.scrollLeft) > 2); // negative from right to left
  }
  $("matrix-box").addEventListener("scroll", markHiddenPart, { passive: true });
  new ResizeObserver(markHiddenPart).observe($("matrix-box"));
  return { show };
}
