// The list of what was found: a card for each comparison, the bar of its label, and a box to choose it.
function createHits({ $, formatNumber }, listeners) {
  let hits = [];
  let chosen = new Set(); // ids
  let mayAct = false;

  function draw(found, { canChoose }) {
    hits = found;
    mayAct = canChoose;
    chosen = new Set([...chosen].filter((id) => hits.some((hit) => hit.id === id)));
    redraw($("hits"), ...hits.map(createHit));
    for (const box of $("hits").querySelectorAll("input")) box.checked = chosen.has(box.value);
  }
  function createHit(hit) {
    const link = createElement("a", { href: `#open=${encodeURIComponent(hit.id)}`, className: "asked", dir: "auto", data: { id: hit.id } }, hit.asked);
    const facts = [
      createElement("span", {}, ...hit.policies.flatMap((policy, i) => [i ? " / " : "", createElement("bdi", {}, policy)])),
      createElement("span", {}, `${formatNumber(hit.votes)} ${hit.votes === 1 ? "vote" : "votes"}`),
      createElement("span", { className: hit.is_split ? "state split" : "state" }, hit.agreement),
      createElement("span", { className: `state route-${hit.route}` }, hit.route),
    ];
    if (hit.kind !== "usual") facts.push(createElement("span", { className: "state" }, hit.kind === "gold" ? "gold" : "hidden repeat"));
    if (hit.language) facts.push(createElement("bdi", {}, hit.language));
    for (const tag of hit.tags) facts.push(createElement("bdi", { className: "tag" }, tag.replace("=", ": ")));
    const parts = [link, createElement("p", { className: "hit-facts" }, ...facts)];
    if (hit.shares) parts.push(createBar(hit.shares));
    const item = createElement("li", { className: "hit", data: { key: hit.id } }, createElement("div", { className: "hit-body" }, ...parts));
    if (mayAct) {
      const box = createElement("input", { type: "checkbox", value: hit.id });
      box.setAttribute("aria-label", `Choose: ${hit.asked}`);
      item.prepend(createElement("label", { className: "hit-choice" }, box));
    }
    return item;
  }
  function createBar(shares) {
    const NS = "http://www.w3.org/2000/svg";
    const bar = document.createElementNS(NS, "svg");
    for (const [name, value] of Object.entries({ class: "shares", viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img" })) bar.setAttribute(name, value);
    const percent = shares.map((share) => `${Math.round(100 * share)} %`);
    bar.setAttribute("aria-label", `First better ${percent[0]}, tie ${percent[1]}, second better ${percent[2]}`);
    let at = 0;
    for (const [i, kind] of ["first", "tie", "second"].entries()) {
      const part = document.createElementNS(NS, "rect");
      for (const [name, value] of Object.entries({ class: kind, x: 100 * at, width: 100 * shares[i], height: 8 })) part.setAttribute(name, value);
      at += shares[i];
      bar.append(part);
    }
    return bar;
  }
  const links = () => [...$("hits").querySelectorAll(".asked")];
  const indexOf = (id) => hits.findIndex((hit) => hit.id === id);
  // Focus the hit so many places after the one that has the focus; the first where none has.
  function step(by) {
    const all = links();
    const at = all.findIndex((link) => link.closest("li").contains(document.activeElement));
    all[at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + by))]?.focus();
  }
  function toggleFocused() {
    document.activeElement.closest?.("li.hit")?.querySelector("input")?.click();
  }
  function chooseAll(isWanted) {
    chosen = isWanted ? new Set(hits.map(({ id }) => id)) : new Set();
    for (const box of $("hits").querySelectorAll("input")) box.checked = isWanted;
    listeners.choose();
  }

  $("hits").addEventListener("click", (event) => {
    const link = event.target.closest(".asked");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    listeners.open(link.dataset.id);
  });
  $("hits").addEventListener("change", ({ target }) => {
    if (target.checked) chosen.add(target.value);
    else chosen.delete(target.value);
    listeners.choose();
  });
  $("choose-all").addEventListener("change", ({ target }) => chooseAll(target.checked));
  return { draw, step, toggleFocused, indexOf, get: () => hits, forget: () => chosen.clear(), chosen: () => [...chosen], focus: (id) => links()[Math.max(0, indexOf(id))]?.focus() };
}
