// Which key does what. A rater may change it; digits rank where there are more than two answers, whatever they chose.
function keymap(kept) {
  const USUAL = {
    A3: "1", A2: "2", A1: "3", tie: "0", B1: "5", B2: "6", B3: "7", all_bad: "b", skipped: "s", flagged: "f",
    rationale: "r", rewrite: "e", scores: "x", difference: "d", unfold: "l", undo: "u", history: "h", guide: "g", help: "?",
  };
  const own = () => ({ ...USUAL, ...kept.get("keys", {}) });
  const usable = (key) => key.length === 1 && key !== " ";
  return {
    actions: Object.keys(USUAL),
    of: (action) => own()[action],
    action(key) {
      const found = Object.entries(own()).find(([, k]) => k === key)?.[0];
      return found ?? (key === "4" ? "tie" : undefined); // the middle of 1 to 7
    },
    usable,
    // Give an action a key; whoever had it gets the other's.
    change(action, key) {
      const map = own();
      const other = Object.keys(map).find((a) => map[a] === key);
      if (other && other !== action) map[other] = map[action];
      map[action] = key;
      kept.put("keys", Object.fromEntries(Object.entries(map).filter(([a, k]) => USUAL[a] !== k)));
    },
    reset: () => kept.put("keys", {}),
    get changed() {
      return Object.keys(kept.get("keys", {})).length > 0;
    },
  };
}
