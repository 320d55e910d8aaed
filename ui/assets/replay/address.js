// What the replay page shows stands in its address after #, so that a link leads to it: of (the name of an evaluation),
// beside (another one), show, order, tag, value, words, example. Links to it exist: keep these names.
function createReplayAddress() {
  const read = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const toHash = (values) => `#${new URLSearchParams(Object.entries(values).filter(([, value]) => value))}`;

  // The query for examples, with defaults for what the address leaves open.
  function readQuery() {
    const { of, beside = null, tag = null, value = "", words = "", example, show, order = "wrong" } = read();
    const defaultShow = beside ? "one_right" : example ? "all" : "disagreements";
    return { of, beside, show: show ?? defaultShow, order, tag, value, words };
  }
  // Replace the address without a step for the browser's Back: for another example, or other examples of the same evaluation.
  const replace = (values) => history.replaceState(history.state, "", toHash(values));
  // Open evaluations, with a step for the browser's Back.
  const open = (values) => (location.hash = toHash(values));

  return { read, readQuery, replace, open };
}

// Numbers requests, so that an answer is not drawn when a newer request was made before it came.
function createRequestOrder() {
  let latest = 0;
  return { begin: () => ++latest, current: () => latest, isLatest: (request) => request === latest };
}
