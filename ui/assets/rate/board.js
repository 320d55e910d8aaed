// Ranking more than two answers: one place a rank, the best first, and one for what is not ranked. An answer's letter is
// dragged there, or marked and sent there by a digit, an arrow or a click; two in one place are a tie.
function board(element, t, changed) {
  let letters = [], ranks = [], mark = 0;

  function draw(shown, given) {
    letters = shown;
    ranks = given?.length === shown.length ? [...given] : shown.map(() => null);
    mark = 0;
    const places = [...shown.map((_, i) => i + 1), null];
    element.replaceChildren(...places.map(place));
    show();
  }
  function place(rank) {
    const zone = document.createElement("div");
    zone.className = "place";
    zone.dataset.rank = rank ?? "";
    zone.setAttribute("role", "group");
    const name = rank === null ? t("unranked") : rank === 1 ? t("rank_best") : String(rank);
    zone.setAttribute("aria-label", rank === null ? name : t("rank_n", { n: rank }));
    zone.innerHTML = '<span class="place-name" aria-hidden="true"></span><span class="chips"></span>';
    zone.firstElementChild.textContent = name;
    zone.addEventListener("click", (event) => event.target.closest(".chip") || set(mark, rank));
    return zone;
  }
  function chip(at) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "chip letter";
    button.textContent = letters[at];
    button.dataset.at = at;
    button.tabIndex = at === mark ? 0 : -1;
    const rank = ranks[at] === null ? t("unranked") : t("rank_n", { n: ranks[at] });
    button.setAttribute("aria-label", `${t("answer", { letter: letters[at] })}: ${rank}`);
    button.setAttribute("aria-pressed", String(at === mark));
    button.addEventListener("click", () => ((mark = at), show()));
    button.addEventListener("pointerdown", (event) => drag(event, at));
    return button;
  }
  function show() {
    const focused = element.contains(document.activeElement);
    for (const zone of element.children)
      zone.lastElementChild.replaceChildren(
        ...letters.map((_, at) => at).filter((at) => String(ranks[at] ?? "") === zone.dataset.rank).map(chip),
      );
    if (focused) element.querySelector(`.chip[data-at="${mark}"]`)?.focus();
    changed();
  }
  function set(at, rank) {
    ranks[at] = rank;
    const next = ranks.indexOf(null); // the next one that has no rank yet
    mark = rank === null || next < 0 ? at : next;
    show();
  }
  function drag(event, at) {
    if (event.button !== 0) return;
    const begun = [event.clientX, event.clientY];
    const button = event.currentTarget;
    let over = null, moved = false;
    button.setPointerCapture(event.pointerId);
    const move = (e) => {
      const [x, y] = [e.clientX - begun[0], e.clientY - begun[1]];
      moved ||= Math.hypot(x, y) > 5;
      if (!moved) return;
      button.classList.add("dragged");
      button.style.translate = `${x}px ${y}px`;
      const below = document.elementsFromPoint(e.clientX, e.clientY);
      const zone = below.map((node) => node.closest?.(".place")).find(Boolean) ?? null;
      if (zone !== over) over?.classList.remove("over"), zone?.classList.add("over"), (over = zone);
    };
    const hold = (e) => {
      e.stopPropagation(); // keys mean nothing while a letter is in the hand, but that Escape puts it back
      e.preventDefault();
      if (e.key === "Escape") end(e);
    };
    const end = (e) => {
      button.removeEventListener("pointermove", move);
      document.removeEventListener("keydown", hold, true);
      over?.classList.remove("over");
      if (!moved) return;
      button.classList.remove("dragged");
      button.style.translate = "";
      if (e.type !== "pointerup") over = null; // and letting go later moves it nowhere
      if (over) set(at, over.dataset.rank ? Number(over.dataset.rank) : null);
    };
    button.addEventListener("pointermove", move);
    document.addEventListener("keydown", hold, true);
    button.addEventListener("pointerup", end, { once: true });
    button.addEventListener("pointercancel", end, { once: true });
  }
  return {
    draw,
    set,
    // A key while more than two answers are shown; true if it meant something here.
    key(key) {
      const n = letters.length;
      const rank = key === "0" ? 10 : /^[1-9]$/.test(key) ? Number(key) : null;
      if (rank !== null && rank <= n) set(mark, rank);
      else if (key === "Backspace" || key === "Delete") set(mark, null);
      else if (key === "ArrowRight" || key === "ArrowLeft") {
        const ahead = (key === "ArrowRight") === (getComputedStyle(element).direction === "ltr");
        (mark = (mark + (ahead ? 1 : n - 1)) % n), show();
      }
      else if (key === "ArrowUp") (ranks[mark] = ranks[mark] === null ? n : Math.max(1, ranks[mark] - 1)), show();
      else if (key === "ArrowDown") (ranks[mark] = ranks[mark] === n || ranks[mark] === null ? null : ranks[mark] + 1), show();
      else return false;
      return true;
    },
    get ranks() {
      return ranks;
    },
    get mark() {
      return mark;
    },
  };
}
