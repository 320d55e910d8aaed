// Which key does what. Raters may change it, and the browser stores what they changed by the names of the actions. Digits
// always rank where there are more than two answers.
function createKeymap(storage) {
  const DEFAULTS = {
    A3: "1", A2: "2", A1: "3", tie: "0", B1: "5", B2: "6", B3: "7", all_bad: "b", skipped: "s", flagged: "f",
    rationale: "r", rewrite: "e", scores: "x", difference: "d", raw: "w", zoom: "z", unfold: "l", undo: "u", history: "h", guide: "g", help: "?",
  };
  const current = () => ({ ...DEFAULTS, ...storage.get("keys", {}) });
  return {
    actions: Object.keys(DEFAULTS),
    keyOf: (action) => current()[action],
    actionOf(key) {
      const action = Object.keys(DEFAULTS).find((name) => current()[name] === key);
      return action ?? (key === "4" ? "tie" : undefined); // the middle of 1 to 7
    },
    isAssignable: (key) => key.length === 1 && key !== " ",
    // Give an action a key. The action that had the key gets the other's.
    assign(action, key) {
      const keys = current();
      const previousOwner = Object.keys(keys).find((name) => keys[name] === key);
      if (previousOwner && previousOwner !== action) keys[previousOwner] = keys[action];
      keys[action] = key;
      storage.set("keys", Object.fromEntries(Object.entries(keys).filter(([name, value]) => DEFAULTS[name] !== value)));
    },
    reset: () => storage.set("keys", {}),
    isChanged: () => Object.keys(storage.get("keys", {})).length > 0,
  };
}
