// A row of toggle buttons, one for each of `values`. `describe` gives a button's `onPress`, and its `label` for screen
// readers and its `text` where these are not the value itself.
function createToggleGroup(className, groupLabel, values, describe) {
  const group = document.createElement("div");
  group.className = className;
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", groupLabel);
  for (const value of values) {
    const { label, onPress, text = value } = describe(value);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.dataset.value = value;
    if (label) button.setAttribute("aria-label", label);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", onPress);
    group.append(button);
  }
  return group;
}
