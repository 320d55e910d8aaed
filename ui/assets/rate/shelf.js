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
    drop(name) {
      page.delete(name);
      try {
        localStorage.removeItem(prefix + name);
      } catch {
        // Where it may not be written it was never put.
      }
    },
    // The names of what is kept that begin like this. A thing has a name of its own, so tabs do not write over each other.
    names(beginning) {
      let stored = [];
      try {
        stored = Object.keys(localStorage);
      } catch {}
      const all = [...page.keys(), ...stored.filter((n) => n.startsWith(prefix)).map((n) => n.slice(prefix.length))];
      return [...new Set(all)].filter((name) => name.startsWith(beginning));
    },
  };
}
