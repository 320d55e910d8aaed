// `name`, as it is called where this server is below a path: a browser keeps things by the host, and another server may be
// at another path of it.
function nameOfSite(name) {
  const site = new URL("..", location.href).pathname;
  return site === "/" ? name : name + site;
}

// What this browser keeps for the rater: drafts, answers not sent yet, settings. Where localStorage is full or forbidden,
// a value is kept in the memory of the page alone.
function createStorage(name) {
  const prefix = nameOfSite(name);
  const memory = new Map();
  return {
    get(name, fallback) {
      if (memory.has(name)) return structuredClone(memory.get(name));
      try {
        return JSON.parse(localStorage.getItem(prefix + name)) ?? fallback;
      } catch {
        return fallback;
      }
    },
    set(name, value) {
      try {
        localStorage.setItem(prefix + name, JSON.stringify(value));
        memory.delete(name);
      } catch {
        memory.set(name, value);
      }
    },
    remove(name) {
      memory.delete(name);
      try {
        localStorage.removeItem(prefix + name);
      } catch {
        // Where localStorage is forbidden, the value was never in it.
      }
    },
    // The stored names that begin with `start`. Each item has a name of its own, so that tabs do not overwrite each other.
    listNames(start) {
      let stored = [];
      try {
        stored = Object.keys(localStorage);
      } catch {}
      const names = [...memory.keys(), ...stored.filter((key) => key.startsWith(prefix)).map((key) => key.slice(prefix.length))];
      return [...new Set(names)].filter((name) => name.startsWith(start));
    },
  };
}
