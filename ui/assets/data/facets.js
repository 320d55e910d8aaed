// The filters: a list of values with counts for each facet, ranges, and a chip for each that is in use.
function createFacets({ $, formatNumber }, change) {
  const SHOWN = 8; // values of a facet before "more"
  const OPEN = ["project", "language", "tag", "policy", "route", "state", "agreement"];
  const RANGES = [["votes", "Votes of raters", 1], ["entropy", "Entropy of the label, in nats", 0.05]];
  const widened = new Set(); // facets of which all values are shown
  let labels = new Map(); // facet, value → text

  const formatCount = (n, estimated) => (estimated ? `≈ ${formatNumber(Number(n.toPrecision(2)))}` : formatNumber(n));
  function draw(facets, filter) {
    for (const { name, title, values } of facets) for (const { value, label } of values) labels.set(`${name} ${value}`, { title, label });
    redraw($("facets"), ...facets.filter(({ values }) => values.length > 0).map((facet) => createFacet(facet)), ...RANGES.map((range) => createRange(range, filter)));
    drawChips(filter);
  }
  function createFacet({ name, title, values, estimated }) {
    const isWide = widened.has(name) || values.length <= SHOWN + 2;
    const shown = isWide ? values : values.filter(({ chosen }, i) => i < SHOWN || chosen);
    const items = shown.map(({ value, label, count, chosen }) => {
      const box = createElement("input", { type: "checkbox", data: { facet: name, value } });
      box.checked = chosen;
      if (chosen) box.setAttribute("checked", "");
      const text = createElement("bdi", { className: "value" }, label);
      return createElement("li", { data: { key: `v${value}` } }, createElement("label", {}, box, text, createElement("span", { className: "count" }, formatCount(count, estimated))));
    });
    const parts = [createElement("summary", {}, title), createElement("ul", {}, ...items)];
    if (!isWide) parts.push(createElement("button", { type: "button", className: "quiet", data: { more: name } }, `${formatNumber(values.length - shown.length)} more`));
    const details = createElement("details", { data: { key: name } }, ...parts);
    const before = $("facets").querySelector(`details[data-key="${name}"]`);
    if (before ? before.open : (OPEN.includes(name) && values.length > 1) || values.some(({ chosen }) => chosen)) details.setAttribute("open", "");
    return details;
  }
  function createRange([name, title, step], filter) {
    const inputs = ["least", "most"].map((end) => {
      const input = createElement("input", { type: "number", step: String(step), data: { range: `${end}_${name}` }, attributes: { "aria-label": `${title}: ${end === "least" ? "at least" : "at most"}`, min: "0" } });
      input.setAttribute("value", filter[`${end}_${name}`] ?? "");
      return input;
    });
    const details = createElement("details", { data: { key: `range ${name}` } }, createElement("summary", {}, title), createElement("p", { className: "range" }, inputs[0], " to ", inputs[1]));
    const before = $("facets").querySelector(`details[data-key="range ${name}"]`);
    if (before?.open || filter[`least_${name}`] !== undefined || filter[`most_${name}`] !== undefined) details.setAttribute("open", "");
    return details;
  }
  // A chip for each condition; each takes its condition away.
  function drawChips(filter) {
    const chips = [];
    for (const [name, value] of Object.entries(filter)) {
      if (name === "words") continue;
      for (const one of [value].flat()) {
        const { title, label } = labels.get(`${name} ${one}`) ?? { title: name.replace("_", " "), label: String(one) };
        const text = createElement("span", {}, `${title}: `, createElement("bdi", {}, label));
        const chip = createElement("button", { type: "button", className: "chip", data: { name, value: String(one), key: `${name} ${one}` } }, text, " ×");
        chip.setAttribute("aria-label", `Take away ${title}: ${label}`);
        chips.push(chip);
      }
    }
    if (chips.length > 1) chips.push(createElement("button", { type: "button", className: "quiet", data: { key: "all", name: "" } }, "Take all away"));
    redraw($("chips"), ...chips);
  }
  function toggle(filter, name, value, isWanted) {
    const others = (filter[name] ?? []).filter((one) => one !== value);
    const values = isWanted ? [...others, value] : others;
    const { [name]: _, ...rest } = filter;
    return values.length ? { ...rest, [name]: values } : rest;
  }
  function setRange(filter, name, text) {
    const { [name]: _, ...rest } = filter;
    return text === "" ? rest : { ...rest, [name]: Number(text) };
  }

  $("facets").addEventListener("change", ({ target }) => {
    if (target.dataset.facet) change((filter) => toggle(filter, target.dataset.facet, target.dataset.value, target.checked));
    if (target.dataset.range && target.checkValidity()) change((filter) => setRange(filter, target.dataset.range, target.value));
  });
  $("facets").addEventListener("click", ({ target }) => {
    const name = target.dataset.more;
    if (!name) return;
    widened.add(name);
    change((filter) => filter);
  });
  $("chips").addEventListener("click", (event) => {
    const chip = event.target.closest("button");
    if (!chip) return;
    const { name, value } = chip.dataset;
    if (!name) return change(({ words }) => (words ? { words } : {}));
    change((filter) => (Array.isArray(filter[name]) ? toggle(filter, name, value, false) : setRange(filter, name, "")));
  });
  $("show-facets").addEventListener("click", () => {
    const isShown = $("facets").classList.toggle("shown");
    $("show-facets").setAttribute("aria-expanded", String(isShown));
  });
  return { draw, drawChips };
}
