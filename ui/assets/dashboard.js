// What the lead's pages share. `element` holds the page, with #notice and #updated in it.
function dashboard(element) {
  const $ = (id) => element.querySelector(`#${id}`);

  // Whether the server did what it was asked. Where it did not, `notice` says why, and nothing has changed.
  function heard(answer, notice = $("notice")) {
    const problem = answer ? answer.problem : "The server does not answer, or you are signed out. Reload the page.";
    notice.textContent = problem ?? "";
    notice.hidden = !problem;
    return !problem;
  }
  function fresh() {
    $("overview").removeAttribute("aria-busy");
    $("updated").textContent = `as of ${new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`;
  }
  return { $, heard, fresh };
}
