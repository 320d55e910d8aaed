// Only one tab is in use at a time: the one opened last. Two tabs would fetch and answer the same comparisons.
// Returns a function that claims the use for this tab; `onYield` is called in all others.
function createTabClaim(onYield) {
  if (!("BroadcastChannel" in window)) return () => {};
  const channel = new BroadcastChannel(nameOfSite("rlhf_hitl.desk")); // the name that tabs opened before an upgrade listen to
  channel.addEventListener("message", onYield);
  return () => channel.postMessage("mine");
}
