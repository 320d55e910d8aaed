// The keys of the replay page. Letters can be turned off, for those who steer their browser by speech or by keys.
function listenToReplayKeys($, examples) {
  const STORED_NAME = "replay-keys";
  const actions = {
    j: () => examples.step(1),
    k: () => examples.step(-1),
    ArrowRight: () => examples.step(1),
    ArrowLeft: () => examples.step(-1),
    d: examples.toggleDifference,
    w: examples.toggleRaw,
    z: examples.enlarge,
    "/": () => $("search").focus(),
  };
  try {
    $("keys-enabled").checked = localStorage.getItem(STORED_NAME) !== "off";
  } catch {} // a browser without storage
  $("keys-enabled").addEventListener("change", () => {
    try {
      localStorage.setItem(STORED_NAME, $("keys-enabled").checked ? "on" : "off");
    } catch {}
  });
  document.addEventListener("keydown", (event) => {
    if ($("example-browser").hidden || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest("dialog[open]")) return; // the focus may be in one that has just been closed
    if (event.target === $("search") && event.key === "Escape") {
      event.preventDefault(); // Escape would empty the field without an input event
      return $("example-list").focus();
    }
    if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
    const isArrow = event.key.startsWith("Arrow");
    if (isArrow && event.target.closest("#example, table")) return; // there they scroll what is too wide
    const run = actions[isArrow ? event.key : event.key.toLowerCase()];
    if (!run || (!isArrow && !$("keys-enabled").checked)) return;
    event.preventDefault();
    run();
  });
}
