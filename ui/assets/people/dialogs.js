// The dialogs of the page of people: changing a person, and inviting somebody.

// `change` changes a person on the server and resolves to whether it worked; `onClose` is given the person.
function createEditDialog($, change, onClose) {
  const form = $("edit-form");
  let person = null; // whom the dialog is about

  function open(edited) {
    person = edited;
    $("edit-name").textContent = person.name;
    $("edit-notice").hidden = true;
    form.quota.value = person.quota ?? "";
    form.languages.value = person.languages.join(", ");
    $("toggle-disabled").textContent = person.disabled ? "Enable" : "Disable";
    $("toggle-disabled").hidden = person.me; // nobody can lock themselves out
    $("edit").showModal();
  }
  async function save(changes) {
    if (Object.keys(changes).length && !(await change(person, changes, $("edit-notice")))) return;
    $("edit").close();
  }
  // Only what is new is sent, since another lead may have changed the rest.
  function readChanges() {
    const changes = {};
    if (form.quota.value !== String(person.quota ?? "")) changes.quota = Number(form.quota.value);
    const languages = form.languages.value.split(",").map((code) => code.trim()).filter(Boolean);
    if (languages.join() !== person.languages.join()) changes.languages = languages;
    return changes;
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save(readChanges());
  });
  $("toggle-disabled").addEventListener("click", () => save({ disabled: !person.disabled }));
  $("edit").addEventListener("close", () => onClose(person));
  return { open };
}

function createInviteDialog({ $, checkAnswer }, server) {
  const form = $("invite-form");

  function setChoices({ roles, projects }) {
    fillSelect(form.role, roles.map((role) => [role, role]));
    $("role-field").hidden = roles.length < 2;
    fillSelect(form.project, [["", "Those open to all"], ...projects.map((id) => [id, id])]);
  }
  function open() {
    $("invite-notice").hidden = $("invite-result").hidden = true;
    form.hidden = false;
    form.reset();
    $("invite").showModal();
  }
  async function createInvitation() {
    const answer = await server.invite({ role: form.role.value, project: form.project.value || null, days: Number(form.days.value) });
    if (!checkAnswer(answer, $("invite-notice"))) return;
    $("invite-link").value = new URL(`../${answer.path}`, location.href).href;
    $("copy-status").textContent = "";
    form.hidden = true;
    $("invite-result").hidden = false;
    $("copy-link").focus();
  }
  async function copyLink() {
    if (await copyText($("invite-link").value)) {
      $("copy-status").textContent = "Copied.";
      return;
    }
    $("invite-link").focus();
    $("invite-link").select();
    $("copy-status").textContent = "Selected: copy it with your keyboard.";
  }
  $("open-invite").addEventListener("click", open);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    createInvitation();
  });
  $("copy-link").addEventListener("click", copyLink);
  $("invite").addEventListener("close", () => {
    $("invite-link").value = "";
    $("open-invite").focus();
  });
  return { setChoices };
}
