// What this browser keeps for the rater: drafts, answers on their way, settings. Where storage is full or forbidden it
// is kept in the page alone.
function shelf(prefix) {
  const page = new Map();
  return {
    get(name, otherwise) {
      if (page.has(name)) return structuredClone(page.get(name));
      try {
        return JSON.parse(localStorage.getItem(prefix + name)) ?? otherwise;
      } catch {
        return otherwise;
      }
    },
    put(name, value) {
      try {
        localStorage.setItem(prefix + name, JSON.stringify(value));
        page.delete(name);
      } catch {
        page.set(name, value);
      }
    },
  };
}
