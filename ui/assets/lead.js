// The lead's page. `element` holds lead.html; `server` has open and escalate, each a call to ui/lead.py.
function lead(element, server) {
  const $ = (id) => element.querySelector(`#${id}`);

  async function draw(answer) {
    const notice = $("notice");
    notice.hidden = true;
    const problem = answer ? answer.problem : "The server does not answer, or you are signed out. Reload the page.";
    if (problem) {
      notice.textContent = problem;
      notice.hidden = false;
      return;
    }
    $("overview").innerHTML = answer.html; // made by a template that escapes everything
    $("overview").removeAttribute("aria-busy");
    $("fresh").textContent = `as of ${new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`;
  }

  element.addEventListener("click", async (event) => {
    const button = event.target.closest(".send");
    if (!button) return;
    button.disabled = true;
    draw(await server.escalate(button.dataset.id));
  });
  $("reload").addEventListener("click", async () => draw(await server.open({})));
  (async () => draw(await server.open({})))();
}
