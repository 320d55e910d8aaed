// The page of people. `element` holds people.html; `server` has open, change and invite, each a call to ui/people.py.
function people(element, server) {
  const { $, heard, fresh } = dashboard(element);
  const PAGE = 50;
  const WORDS = {
    states: { active: "active", paused: "paused", disabled: "disabled", simulated: "simulated" },
    roles: { rater: "rater", lead: "lead", evaluator: "evaluator", admin: "admin" },
    labels: { role: "Role", state: "State", today: "Today", all: "In all", seconds: "Median time", seen: "Last seen", projects: "Member of", languages: "Reads" },
    me: "you",
    any: "any",
    none: "—",
    never: "never",
    anyProject: "Those open to all",
    pause: "Pause",
    resume: "Resume",
    change: "Change",
    disable: "Disable",
    enable: "Enable",
    copied: "Copied.",
    copyIt: "Selected: copy it with your keyboard.",
    saved: (p) => `${p.name}: saved, ${WORDS.states[p.state]}.`,
    ofQuota: (n, quota) => `${n} of ${quota}`,
    atWork: (n) => `by ${n} of them`,
    nobody: "nobody found",
    shown: (first, last, found) => `${first}–${last} of ${found}`,
    simulated: (n) => `${n} simulated`,
    imported: (n) => `${n} imported`,
    judged: (n) => `judged: ${n}`,
    raters: (n) => `imported raters: ${n}`,
  };
  const number = new Intl.NumberFormat();
  const day = new Intl.DateTimeFormat([], { day: "numeric", month: "short", timeZone: "UTC" });
  const ago = new Intl.RelativeTimeFormat([], { numeric: "auto", style: "short" });

  let everybody = []; // as the server gives them
  let found = []; // those the filter leaves, sorted
  let sorted = { by: "today", up: false };
  let at = 0; // the first of `found` on this page
  let edited = null; // whom the dialog is about
  const busy = new Set(); // ids of those a change is on its way for

  // --- drawing
  function make(tag, props = {}, ...children) {
    const { data = {}, ...rest } = props;
    const node = Object.assign(document.createElement(tag), rest); // names are text and never HTML
    Object.assign(node.dataset, data);
    node.append(...children);
    return node;
  }
  function cell(name, className, ...children) {
    const td = make("td", { className, data: { label: WORDS.labels[name] ?? "" } }, ...children);
    td.setAttribute("role", "cell");
    return td;
  }
  const pill = (state) => make("span", { className: `state ${state}` }, WORDS.states[state] ?? state);

  function row(p) {
    const name = make("th", { scope: "row" }, make("bdi", {}, p.name));
    name.setAttribute("role", "rowheader");
    if (p.me) name.append(make("span", { className: "you" }, WORDS.me));
    const today = make("div", {}, p.quota ? WORDS.ofQuota(number.format(p.today), number.format(p.quota)) : number.format(p.today));
    if (p.quota) {
      const done = make("i", { className: "filled" });
      done.style.width = `${Math.min(100, (100 * p.today) / p.quota)}%`;
      today.append(make("div", { className: `meter${p.today >= p.quota ? " full" : ""}` }, done));
    }
    const tr = make(
      "tr",
      { data: { id: p.id } },
      name,
      cell("role", "", WORDS.roles[p.role] ?? p.role),
      cell("state", "", pill(p.state)),
      cell("today", "numeric", today),
      cell("all", "numeric", number.format(p.all)),
      cell("seconds", "numeric", duration(p.seconds)),
      cell("seen", "soft", seen(p.seen)),
      cell("projects", "wrapping", p.projects.join(", ") || WORDS.none),
      cell("languages", "wrapping", p.languages.join(", ") || WORDS.any),
      cell("", "row-actions", ...(p.mine ? [button(p, "toggle", p.disabled ? WORDS.enable : p.paused ? WORDS.resume : WORDS.pause), button(p, "edit", WORDS.change)] : [])),
    );
    tr.setAttribute("role", "row");
    return tr;
  }
  function button(p, act, word) {
    const made = make("button", { type: "button", className: "outlined", data: { act } }, word);
    made.setAttribute("aria-label", `${word}: ${p.name}`);
    return made;
  }
  function duration(seconds) {
    if (seconds === null) return WORDS.none;
    return seconds < 100 ? `${number.format(Math.round(seconds * 10) / 10)} s` : `${number.format(Math.round(seconds / 6) / 10)} min`;
  }
  function seen(iso) {
    if (!iso) return WORDS.never;
    const minutes = (new Date(iso) - Date.now()) / 60_000;
    const [unit, size] = [["day", 1440], ["hour", 60], ["minute", 1]].find(([, s]) => -minutes >= s) ?? ["minute", 1];
    return make("time", { dateTime: iso, title: new Date(iso).toLocaleString() }, ago.format(Math.min(0, Math.ceil(minutes / size)), unit));
  }

  function totals() {
    const sum = (key) => everybody.reduce((n, p) => n + p[key], 0);
    const standing = Object.keys(WORDS.states).map((s) => [everybody.filter((p) => p.state === s).length, WORDS.states[s]]);
    $("people-count").textContent = number.format(everybody.length);
    $("state-counts").textContent = standing.filter(([n]) => n).map(([n, word]) => `${number.format(n)} ${word}`).join(", ");
    $("judged-today").textContent = number.format(sum("today"));
    $("active-today").textContent = WORDS.atWork(number.format(everybody.filter((p) => p.today).length));
    $("judged-total").textContent = number.format(sum("all"));
  }
  function spark(counts, today) {
    const days = counts.map((_, i) => day.format(Date.parse(today) - (counts.length - 1 - i) * 86_400_000));
    const most = Math.max(1, ...counts);
    const width = 280 / counts.length;
    const bars = counts.map((n, i) => {
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const height = n ? Math.max(2, (46 * n) / most) : 1;
      const shape = { x: i * width + 2, y: 48 - height, width: width - 4, height };
      for (const [key, value] of Object.entries(shape)) bar.setAttribute(key, value);
      return bar;
    });
    $("daily-chart-text").textContent = counts.map((n, i) => `${days[i]}: ${number.format(n)}`).join(", ");
    $("daily-chart").replaceChildren($("daily-chart-text"), ...bars);
    $("first-day").textContent = days[0];
  }
  function others({ simulated, imported }) {
    const items = simulated.map((p) => [make("b", {}, make("bdi", {}, p.name)), pill("simulated"), ...(p.state === "simulated" ? [] : [pill(p.state)]), WORDS.judged(number.format(p.all)), duration(p.seconds)]);
    items.push(...imported.map((i) => [make("b", {}, make("bdi", {}, i.source)), WORDS.raters(number.format(i.raters)), WORDS.judged(number.format(i.judged))]));
    $("other-raters-list").replaceChildren(...items.map((parts) => make("li", {}, ...parts.map((part) => make("span", {}, part)))));
    const counts = { simulated: simulated.length, imported: imported.reduce((n, i) => n + i.raters, 0) };
    $("other-raters-count").textContent = Object.keys(counts).filter((kind) => counts[kind]).map((kind) => WORDS[kind](number.format(counts[kind]))).join(", ");
    $("other-raters").hidden = items.length === 0;
  }

  // --- which of them, in which order
  const text = (p) => [p.name, WORDS.roles[p.role], WORDS.states[p.state], ...p.projects, ...p.languages].join("\n").toLowerCase();
  function pick() {
    const wanted = $("search").value.trim().toLowerCase();
    const order = new Intl.Collator([], { numeric: true }).compare;
    const value = (p) => p[sorted.by];
    found = everybody
      .filter((p) => text(p).includes(wanted))
      .sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null); // nothing to compare: last, either way round
        const by = typeof x === "number" ? x - y : order(x, y);
        return (sorted.up ? by : -by) || order(a.name, b.name);
      });
    at = 0;
    show();
  }
  function show() {
    $("people-rows").replaceChildren(...found.slice(at, at + PAGE).map(row));
    const last = Math.min(at + PAGE, found.length);
    $("shown-range").textContent = last ? WORDS.shown(...[at + 1, last, found.length].map((n) => number.format(n))) : WORDS.nobody;
    $("pages").hidden = found.length <= PAGE;
    // Not `disabled`, which would take the focus away from who presses it.
    $("previous").setAttribute("aria-disabled", String(at === 0));
    $("next").setAttribute("aria-disabled", String(last === found.length));
    for (const th of element.querySelectorAll("[data-sort]"))
      if (th.dataset.sort === sorted.by) th.setAttribute("aria-sort", sorted.up ? "ascending" : "descending");
      else th.removeAttribute("aria-sort");
  }
  function turn(by) {
    if (at + by < 0 || at + by >= found.length) return;
    at += by;
    show();
  }

  // --- talking to the server
  async function load() {
    const answer = await server.open({});
    if (!heard(answer)) return;
    everybody = answer.people;
    totals();
    spark(answer.by_day, answer.today);
    others(answer);
    const option = (value, word) => make("option", { value }, word);
    $("invite-form").role.replaceChildren(...answer.roles.map((r) => option(r, WORDS.roles[r])));
    $("role-field").hidden = answer.roles.length < 2;
    $("invite-form").project.replaceChildren(option("", WORDS.anyProject), ...answer.projects.map((id) => option(id, id)));
    $("totals").hidden = $("staff").hidden = false;
    pick();
    fresh();
  }
  // Changes somebody; their row stays where it is, and so does the focus.
  async function change(p, wanted, notice) {
    if (busy.has(p.id)) return false;
    busy.add(p.id);
    const answer = await server.change({ id: p.id, ...wanted });
    busy.delete(p.id);
    if (!heard(answer, notice)) return false;
    Object.assign(p, answer.person);
    const old = rowOf(p);
    const held = old?.contains(document.activeElement) ? document.activeElement.dataset.act : null;
    old?.replaceWith(row(p));
    if (held) focusOn(p, held);
    totals();
    $("announce").textContent = WORDS.saved(p);
    return true;
  }
  const rowOf = (p) => [...$("people-rows").children].find((tr) => tr.dataset.id === p.id);
  const focusOn = (p, act) => rowOf(p)?.querySelector(`[data-act="${act}"]`)?.focus();

  // --- hands
  $("reload").addEventListener("click", load);
  $("search").addEventListener("input", pick);
  $("previous").addEventListener("click", () => turn(-PAGE));
  $("next").addEventListener("click", () => turn(PAGE));
  element.querySelector("thead").addEventListener("click", (event) => {
    const by = event.target.closest("button")?.parentElement.dataset.sort;
    if (!by) return;
    const words = ["name", "role", "state"].includes(by);
    sorted = { by, up: sorted.by === by ? !sorted.up : words };
    pick();
  });
  $("people-rows").addEventListener("click", (event) => {
    const act = event.target.closest("[data-act]")?.dataset.act;
    if (!act) return;
    const p = everybody.find((one) => one.id === event.target.closest("tr").dataset.id);
    if (act === "toggle") change(p, p.disabled ? { disabled: false } : { paused: !p.paused });
    else edit(p);
  });

  const form = $("edit-form");
  const languages = (value) => value.split(",").map((code) => code.trim()).filter(Boolean);
  function edit(p) {
    edited = p;
    $("edit-name").textContent = p.name;
    $("edit-notice").hidden = true;
    form.quota.value = p.quota ?? "";
    form.languages.value = p.languages.join(", ");
    $("toggle-disabled").textContent = p.disabled ? WORDS.enable : WORDS.disable;
    $("toggle-disabled").hidden = p.me; // nobody shuts themselves out
    $("edit").showModal();
  }
  async function save(wanted) {
    if (Object.keys(wanted).length && !(await change(edited, wanted, $("edit-notice")))) return;
    $("edit").close();
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = {}; // only what is new: another lead may be at the rest of it
    if (form.quota.value !== String(edited.quota ?? "")) wanted.quota = Number(form.quota.value);
    const read = languages(form.languages.value);
    if (read.join() !== edited.languages.join()) wanted.languages = read;
    save(wanted);
  });
  $("toggle-disabled").addEventListener("click", () => save({ disabled: !edited.disabled }));
  $("edit").addEventListener("close", () => focusOn(edited, "edit"));

  $("open-invite").addEventListener("click", () => {
    $("invite-notice").hidden = $("invite-result").hidden = true;
    $("invite-form").hidden = false;
    $("invite-form").reset();
    $("invite").showModal();
  });
  $("invite-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const { role, project, days } = $("invite-form");
    const answer = await server.invite({ role: role.value, project: project.value || null, days: Number(days.value) });
    if (!heard(answer, $("invite-notice"))) return;
    $("invite-link").value = new URL(`../${answer.path}`, location.href).href;
    $("copy-status").textContent = "";
    $("invite-form").hidden = true;
    $("invite-result").hidden = false;
    $("copy-link").focus();
  });
  $("copy-link").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText($("invite-link").value);
      $("copy-status").textContent = WORDS.copied;
    } catch {
      // Browsers give the clipboard only over TLS and to this machine.
      $("invite-link").focus();
      $("invite-link").select();
      $("copy-status").textContent = WORDS.copyIt;
    }
  });
  $("invite").addEventListener("close", () => {
    $("invite-link").value = "";
    $("open-invite").focus();
  });
  for (const button of element.querySelectorAll("[data-close]"))
    button.addEventListener("click", () => button.closest("dialog").close());

  load();
}
