// How the page of policies draws the lineage: each policy below the one it was made of, as lists within lists.
function createLineageView({ $, t, formatNumber }, onCompare) {
  function show({ lines, left_out: leftOut }) {
    $("lineage-panel").hidden = false;
    $("lineage-none").hidden = lines.length > 0;
    $("lineage-note").textContent = leftOut ? t("policies_note_more", { n: formatNumber(leftOut) }) : "";
    const root = createElement("ul", { className: "tree", data: { key: "tree" } });
    const lists = [root]; // the list that policies of each depth go into
    for (const line of lines) {
      const item = createElement("li", { data: { key: line.name } }, createLine(line));
      const list = lists[line.depth] ?? root;
      list.append(item);
      lists.length = line.depth + 1;
      const below = createElement("ul", { data: { key: `below ${line.name}` } });
      lists.push(below);
      item.append(below);
    }
    for (const list of root.querySelectorAll("ul")) if (!list.children.length) list.remove();
    redraw($("lineage-tree"), ...(lines.length ? [root] : []));
  }
  function createLine(line) {
    const marks = [createMark(`method ${line.method ?? "none"}`, line.method ? t(`method_${line.method}`) : t("policies_not_recorded"))];
    if (line.outcome) marks.push(createMark(`outcome ${line.outcome}`, t(`outcome_${line.outcome}`)));
    if (line.place === "gone") marks.push(createMark("paused", t("policies_gone")));
    const facts = line.origin ? [line.origin] : [];
    if (line.round !== null) facts.push(t("policies_round", { n: formatNumber(line.round) }));
    if (line.model) facts.push(t("policies_on_model", { model: line.model }));
    if (line.replaced) facts.push(t("policies_replaced", { n: formatNumber(line.replaced) }));
    const box = createElement("div", { className: "line" }, createElement("bdi", { className: "name" }, line.policy), ...marks, createElement("span", { className: "note" }, facts.join(" · ")));
    if (line.parent) {
      const button = createElement("button", { type: "button", className: "outlined compare", data: { before: line.parent, after: line.name } }, t("policies_show_changes"));
      button.setAttribute("aria-label", `${t("policies_show_changes")}: ${line.policy}`);
      box.append(button);
    }
    if (line.gate) box.append(createElement("span", { className: "note gate", lang: "en", dir: "ltr" }, line.gate));
    return box;
  }
  const createMark = (name, text) => createElement("span", { className: `state ${name}` }, text);
  $("lineage-tree").addEventListener("click", (event) => {
    const button = event.target.closest(".compare");
    if (button) onCompare(button.dataset.before, button.dataset.after);
  });
  return { show };
}
