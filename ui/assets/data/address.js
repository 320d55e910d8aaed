// What the page shows stands in its address after #, so that a link leads to it and Back goes back: the filter as
// `ComparisonFilter.to_pairs` writes it, and `open` (the id of a comparison). Links to it exist: keep these names.
function createDataAddress() {
  const MANY = ["ids", "project", "batch", "split", "language", "tag", "policy", "route", "round", "state", "agreement", "outcome", "verdict", "rater", "judge", "kind"];
  const NUMBERS = ["least_votes", "most_votes", "least_entropy", "most_entropy"];

  // The filter, as the server reads it, and the comparison that is open. A number that is none is left to the server.
  function read() {
    const filter = {};
    let open = null;
    for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
      if (name === "open") open = value;
      else if (MANY.includes(name)) (filter[name] ??= []).push(value);
      else if (NUMBERS.includes(name)) filter[name] = Number.isNaN(Number(value)) ? value : Number(value);
      else filter[name] = value;
    }
    return { filter, open };
  }
  function write({ filter, open }) {
    const pairs = Object.entries(filter).flatMap(([name, value]) => [value].flat().map((one) => [name, String(one)]));
    const chosen = new URLSearchParams(open ? [...pairs, ["open", open]] : pairs);
    return chosen.size ? `#${chosen}` : location.pathname;
  }
  // With or without a step for the browser's Back.
  const push = (shown) => history.pushState(history.state, "", write(shown));
  const replace = (shown) => history.replaceState(history.state, "", write(shown));
  return { read, push, replace };
}
