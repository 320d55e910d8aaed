// The keys of the catalog's page. None of them works while something is being typed, but for Escape.
function listenToDataKeys($, page) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || event.target.closest("dialog[open]")) return;
    const isOpen = !$("opened").hidden;
    if (event.key === "Escape") {
      if (event.target === $("words")) $("hits").querySelector(".asked")?.focus();
      else if (isOpen) page.close();
      else return;
      return event.preventDefault();
    }
    if (event.target.closest("input:not([type=checkbox]), select, textarea")) {
      if (event.target === $("words") && event.key === "ArrowDown") {
        event.preventDefault();
        $("hits").querySelector(".asked")?.focus();
      }
      return;
    }
    if (event.key.startsWith("Arrow") && event.target.closest(".prompt, pre, table, select, summary, .facets")) return; // there they scroll
    const listKeys = { ArrowDown: () => page.step(1), ArrowUp: () => page.step(-1), j: () => page.step(1), k: () => page.step(-1), x: page.choose };
    const openKeys = { ArrowRight: () => page.turn(1), ArrowLeft: () => page.turn(-1), j: () => page.turn(1), k: () => page.turn(-1), w: page.toggleRaw };
    const key = event.key.startsWith("Arrow") ? event.key : event.key.toLowerCase();
    const run = key === "/" ? page.find : (isOpen ? openKeys : listKeys)[key];
    if (!run) return;
    event.preventDefault();
    run();
  });
}
