// The lead's page. `element` holds lead.html; `server` has open and escalate, each a call to ui/lead.py.
function lead(element, server) {
  const { $, checkAnswer, showUpdated } = createDashboard(element);

  function draw(answer) {
    if (!checkAnswer(answer)) return;
    $("overview").innerHTML = answer.html; // made by a template that escapes everything
    showUpdated();
  }
  async function load() {
    draw(await server.open({}));
  }
  element.addEventListener("click", async (event) => {
    const button = event.target.closest(".escalate");
    if (!button) return;
    button.disabled = true;
    draw(await server.escalate(button.dataset.id));
    button.disabled = false;
  });
  $("reload").addEventListener("click", load);
  load();
}
