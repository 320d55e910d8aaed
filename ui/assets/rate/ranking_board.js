// Ranks more than two answers: one zone for each rank, the best first, and one for answers without a rank. The letter of an
// answer is dragged into a zone, or marked and sent there by a digit, an arrow or a click; two in one zone are a tie.
function createRankingBoard(element, t, onChange) {
  let letters = [], ranks = [], marked = 0;

  function draw(shownLetters, givenRanks) {
    letters = shownLetters;
    ranks = givenRanks?.length === letters.length ? [...givenRanks] : letters.map(() => null);
    marked = 0;
    element.replaceChildren(...[...letters.map((_, index) => index + 1), null].map(createZone));
    update();
  }
  function createZone(rank) {
    const zone = document.createElement("div");
    zone.className = "rank-zone";
    zone.dataset.rank = rank ?? "";
    zone.setAttribute("role", "group");
    const name = rank === null ? t("unranked") : rank === 1 ? t("rank_best") : String(rank);
    zone.setAttribute("aria-label", rank === null ? name : t("rank_n", { n: rank }));
    zone.innerHTML = '<span class="rank-name" aria-hidden="true"></span><span class="chips"></span>';
    zone.firstElementChild.textContent = name;
    zone.addEventListener("click", (event) => event.target.closest(".chip") || setRank(marked, rank));
    return zone;
  }
  function createChip(index) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "chip letter";
    button.textContent = letters[index];
    button.dataset.index = index;
    button.tabIndex = index === marked ? 0 : -1;
    const rank = ranks[index] === null ? t("unranked") : t("rank_n", { n: ranks[index] });
    button.setAttribute("aria-label", `${t("answer", { letter: letters[index] })}: ${rank}`);
    button.setAttribute("aria-pressed", String(index === marked));
    button.addEventListener("click", () => mark(index));
    button.addEventListener("pointerdown", (event) => startDrag(event, index));
    return button;
  }
  function update() {
    const hadFocus = element.contains(document.activeElement);
    for (const zone of element.children) {
      const indices = [...letters.keys()].filter((index) => String(ranks[index] ?? "") === zone.dataset.rank);
      zone.lastElementChild.replaceChildren(...indices.map(createChip));
    }
    if (hadFocus) element.querySelector(`.chip[data-index="${marked}"]`)?.focus();
    onChange();
  }
  function mark(index) {
    marked = index;
    update();
  }
  // Give an answer a rank (null: none) and mark the next answer that has none.
  function setRank(index, rank) {
    ranks[index] = rank;
    const nextUnranked = ranks.indexOf(null);
    mark(rank === null || nextUnranked < 0 ? index : nextUnranked);
  }
  function moveMarked(rank) {
    ranks[marked] = rank;
    update();
  }

  function startDrag(event, index) {
    if (event.button !== 0) return;
    const startX = event.clientX, startY = event.clientY;
    const chip = event.currentTarget;
    let zoneBelow = null, hasMoved = false;
    chip.setPointerCapture(event.pointerId);
    const followPointer = ({ clientX, clientY }) => {
      const x = clientX - startX, y = clientY - startY;
      hasMoved ||= Math.hypot(x, y) > 5;
      if (!hasMoved) return;
      chip.classList.add("dragged");
      chip.style.translate = `${x}px ${y}px`;
      const zone = document.elementsFromPoint(clientX, clientY).map((node) => node.closest?.(".rank-zone")).find(Boolean) ?? null;
      if (zone === zoneBelow) return;
      zoneBelow?.classList.remove("over");
      zone?.classList.add("over");
      zoneBelow = zone;
    };
    const blockKeys = (keyEvent) => {
      keyEvent.stopPropagation(); // while a letter is dragged, Escape puts it back and other keys do nothing
      keyEvent.preventDefault();
      if (keyEvent.key === "Escape") endDrag(keyEvent);
    };
    const endDrag = ({ type }) => {
      chip.removeEventListener("pointermove", followPointer);
      document.removeEventListener("keydown", blockKeys, true);
      zoneBelow?.classList.remove("over");
      if (!hasMoved) return;
      chip.classList.remove("dragged");
      chip.style.translate = "";
      if (type !== "pointerup") zoneBelow = null; // the pointer released after an Escape moves nothing
      if (zoneBelow) setRank(index, zoneBelow.dataset.rank ? Number(zoneBelow.dataset.rank) : null);
    };
    chip.addEventListener("pointermove", followPointer);
    document.addEventListener("keydown", blockKeys, true);
    chip.addEventListener("pointerup", endDrag, { once: true });
    chip.addEventListener("pointercancel", endDrag, { once: true });
  }
  // Handle a key while more than two answers are shown. Returns whether the key had a meaning.
  function handleKey(key) {
    const count = letters.length, rank = ranks[marked];
    const digit = key === "0" ? 10 : /^[1-9]$/.test(key) ? Number(key) : null;
    if (digit !== null && digit <= count) setRank(marked, digit);
    else if (key === "Backspace" || key === "Delete") setRank(marked, null);
    else if (key === "ArrowRight" || key === "ArrowLeft") {
      const isForward = (key === "ArrowRight") === (getComputedStyle(element).direction === "ltr");
      mark((marked + (isForward ? 1 : count - 1)) % count);
    } else if (key === "ArrowUp") moveMarked(rank === null ? count : Math.max(1, rank - 1));
    else if (key === "ArrowDown") moveMarked(rank === null || rank === count ? null : rank + 1);
    else return false;
    return true;
  }
  return {
    draw,
    setRank,
    handleKey,
    // The indices of the answers that share the best rank; empty while nothing is ranked.
    bestIndices() {
      const best = Math.min(...ranks.filter((rank) => rank !== null));
      return [...ranks.keys()].filter((index) => ranks[index] === best);
    },
    countRanked: () => ranks.filter((rank) => rank !== null).length,
    get ranks() {
      return ranks;
    },
    get marked() {
      return marked;
    },
  };
}
