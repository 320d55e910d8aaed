// The dialogs of the page of people: changing a person, and inviting somebody.

// `change` changes a person on the server and resolves to whether it worked; `onClose` is given the person.
function createEditDialog({ $, t }, change, onClose) {
  const form = $("edit-form");
  let person = null; // whom the dialog is about
  let shown = null; // what its fields said as it opened

  function open(edited) {
    person = edited;
    $("edit-name").textContent = person.name;
    $("edit-notice").hidden = true;
    form.quota.value = person.quota ?? "";
    form.languages.value = person.languages.join(", ");
    shown = readFields();
    $("toggle-disabled").textContent = person.disabled ? t("enable") : t("disable");
    $("toggle-disabled").hidden = person.me; // nobody can lock themselves out
    $("edit").showModal();
  }
  async function save(changes) {
    if (Object.keys(changes).length && !(await change(person, changes, $("edit-notice")))) return;
    $("edit").close();
  }
  function readFields() {
    const languages = form.languages.value.split(",").map((code) => code.trim()).filter(Boolean);
    return { quota: Number(form.quota.value), languages };
  }
  // Only what was changed here is sent, since another lead may change the rest meanwhile.
  function readChanges() {
    const fields = readFields();
    return Object.fromEntries(Object.entries(fields).filter(([name, value]) => String(value) !== String(shown[name])));
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save(readChanges());
  });
  $("toggle-disabled").addEventListener("click", () => save({ disabled: !person.disabled }));
  $("edit").addEventListener("close", () => onClose(person));
  return { open };
}

function createInviteDialog({ $, t, checkAnswer }, server) {
  const form = $("invite-form");

  function setChoices({ roles, projects }) {
    fillSelect(form.role, roles.map((role) => [role, t(`role_${role}`)]));
    $("role-field").hidden = roles.length < 2;
    fillProjects(form.project, t("projects_open"), projects, t);
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
      $("copy-status").textContent = t("copied");
      return;
    }
    $("invite-link").focus();
    $("invite-link").select();
    $("copy-status").textContent = t("copy_by_hand");
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
