// The settings: language, goal of the day, colours. The browser stores them.
function createSettings(page) {
  const { $, storage, progress, i18n } = page;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");

  function open() {
    const nameOf = (tag) => new Intl.DisplayNames([tag], { type: "language" }).of(tag);
    $("language").replaceChildren(...i18n.languages.map((tag) => new Option(nameOf(tag), tag)));
    $("language").value = i18n.language;
    $("goal-number").value = progress.goal() || "";
    $("theme").value = storage.get("theme", "");
    $("settings").showModal();
  }
  function applyTheme() {
    const theme = storage.get("theme", "") || (prefersDark.matches ? "dark" : "light");
    document.body.classList.toggle("dark", theme === "dark");
  }
  $("language").addEventListener("change", () => {
    storage.set("language", $("language").value);
    location.reload();
  });
  $("theme").addEventListener("change", () => {
    storage.set("theme", $("theme").value);
    applyTheme();
  });
  $("goal-number").addEventListener("change", () => {
    // What the field does not allow, such as -5, is said beside it by the browser, and the goal stays what it was.
    if ($("goal-number").reportValidity()) progress.setGoal($("goal-number").value);
  });
  prefersDark.addEventListener("change", applyTheme);
  return { open, applyTheme };
}
