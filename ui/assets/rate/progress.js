// How much the rater has done today, how much is left for them, their pace, and the goal they have set.
function createProgress(page) {
  const { $, pace, storage, i18n: { t, formatNumber } } = page;
  let latest = null; // progress as the server sent it last

  const goal = () => storage.get("goal", 0);
  function show(progress) {
    latest = progress;
    const { name, done, left } = progress;
    $("rater-name").textContent = name;
    const perHour = pace.perHour();
    $("progress").textContent = [
      goal() ? t("done_of", { n: formatNumber(done), goal: formatNumber(goal()) }) : t("done", { n: formatNumber(done) }),
      // In tens, because hidden repeats would show by an exact count; 1 stands for fewer than ten.
      left === 1 ? t("left_few") : t("left", { n: formatNumber(left) + (left ? "+" : "") }),
      perHour && t("pace", { n: formatNumber(perHour) }),
    ].filter(Boolean).join(" · ");
    $("goal").hidden = !goal();
    $("goal").value = Math.min(done, goal());
    $("goal").max = goal() || 1;
    if (goal() && done === goal()) page.notices.announce(t("goal_reached"));
  }
  function setGoal(text) {
    storage.set("goal", Math.max(0, Math.round(Number(text)) || 0));
    if (latest) show(latest);
  }
  return { show, goal, setGoal };
}
