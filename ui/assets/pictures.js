// Images, larger: alone, or beside those of the other answers, all at the same zoom and moved together.
function createPictureViewer(element, t) {
  const STEP = 1.5, LEAST = 0.05, MOST = 16; // of zoom, in pixels of the screen for one of the image
  let zoom = 1, isFitted = true;
  let columns = []; // of each answer or of the conversation: its title and its images
  let at = 0; // which image of each column is shown

  const dialog = document.createElement("dialog");
  dialog.className = "zoom";
  dialog.setAttribute("aria-labelledby", "zoom-title");
  dialog.innerHTML = `
    <header>
      <h2 id="zoom-title" tabindex="-1" autofocus></h2>
      <div class="zoom-tools">
        <span class="zoom-steps"><button type="button" data-do="previous">‹</button> <span class="zoom-at"></span> <button type="button" data-do="next">›</button></span>
        <button type="button" data-do="smaller">−</button> <output class="zoom-percent"></output> <button type="button" data-do="larger">+</button>
        <button type="button" data-do="fit"></button>
        <button type="button" data-do="close"></button>
      </div>
    </header>
    <div class="zoom-panes"></div>`;
  element.querySelector(".page-root").append(dialog);
  const find = (selector) => dialog.querySelector(selector);
  const label = (name, text) => find(`[data-do="${name}"]`).setAttribute("aria-label", text);
  const panes = () => [...dialog.querySelectorAll(".zoom-pane")];

  // Open it with an image of the page: in an answer, together with the images of the other answers.
  function open(picture) {
    const answers = [...(picture.closest(".answers")?.querySelectorAll(":scope > .answer") ?? [])].filter((answer) => answer.querySelector(".picture"));
    const boxes = answers.length ? answers : [picture.closest(".prompt, .pictures") ?? picture.parentElement];
    columns = boxes.map((box) => ({
      title: box.dataset.title ?? (answers.length ? box.getAttribute("aria-label") : ""),
      images: [...box.querySelectorAll(".picture img")],
    }));
    at = columns.map(({ images }) => images.indexOf(picture.querySelector("img"))).find((index) => index >= 0);
    find("h2").textContent = t("images");
    label("previous", t("image_previous"));
    label("next", t("image_next"));
    label("smaller", t("zoom_smaller"));
    label("larger", t("zoom_larger"));
    find('[data-do="fit"]').textContent = t("zoom_fit");
    find('[data-do="close"]').textContent = t("close");
    dialog.showModal();
    draw();
  }
  // Open it with the first image of the answers, or else of the page.
  function openFirst() {
    const picture = element.querySelector(".answers .picture") ?? element.querySelector(".picture");
    if (picture) open(picture);
  }
  const countSteps = () => Math.max(...columns.map(({ images }) => images.length));

  function draw() {
    find(".zoom-panes").replaceChildren(...columns.map(createColumn));
    find(".zoom-panes").style.setProperty("--columns", columns.length);
    find(".zoom-steps").hidden = countSteps() < 2;
    find(".zoom-at").textContent = `${at + 1} / ${countSteps()}`;
    fit();
  }
  function createColumn({ title, images }) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption"), pane = document.createElement("div");
    const image = images[at];
    caption.textContent = [title, image?.dataset.i18nAlt ? "" : image?.alt].filter(Boolean).join(" · ") || image?.alt || "—";
    pane.className = "zoom-pane";
    pane.tabIndex = 0;
    pane.setAttribute("role", "group");
    pane.setAttribute("aria-label", caption.textContent);
    if (image) {
      const larger = new Image();
      larger.alt = image.alt;
      larger.addEventListener("load", () => (isFitted ? fit() : show()));
      larger.src = image.src;
      pane.append(larger);
    }
    pane.addEventListener("scroll", () => moveOthers(pane));
    figure.append(caption, pane);
    return figure;
  }
  // Keep the same part of all images in view.
  function moveOthers(moved) {
    const share = (position, whole, seen) => (whole > seen ? position / (whole - seen) : 0);
    const x = share(moved.scrollLeft, moved.scrollWidth, moved.clientWidth), y = share(moved.scrollTop, moved.scrollHeight, moved.clientHeight);
    for (const pane of panes()) {
      if (pane === moved) continue;
      const left = x * (pane.scrollWidth - pane.clientWidth), top = y * (pane.scrollHeight - pane.clientHeight);
      if (Math.abs(pane.scrollLeft - left) > 1 || Math.abs(pane.scrollTop - top) > 1) pane.scrollTo({ left, top, behavior: "instant" });
    }
  }
  // The largest zoom at which all images are seen whole; small ones are not blown up.
  function fit() {
    const scales = panes().flatMap((pane) => {
      const image = pane.firstElementChild;
      return image?.naturalWidth ? [pane.clientWidth / image.naturalWidth, pane.clientHeight / image.naturalHeight] : [];
    });
    zoom = Math.min(1, ...scales);
    isFitted = true;
    show();
  }
  function setZoom(value) {
    const before = panes().map((pane) => [(pane.scrollLeft + pane.clientWidth / 2) / zoom, (pane.scrollTop + pane.clientHeight / 2) / zoom]);
    zoom = Math.min(MOST, Math.max(LEAST, value));
    isFitted = false;
    show();
    panes().forEach((pane, i) => pane.scrollTo(before[i][0] * zoom - pane.clientWidth / 2, before[i][1] * zoom - pane.clientHeight / 2));
  }
  function show() {
    for (const pane of panes()) {
      const image = pane.firstElementChild;
      if (image?.naturalWidth) image.style.width = `${Math.max(1, Math.floor(image.naturalWidth * zoom))}px`;
    }
    find(".zoom-percent").textContent = `${Math.round(zoom * 100)} %`;
  }
  function step(by) {
    at = (at + by + countSteps()) % countSteps();
    draw();
  }

  // An image that does not come: what it shows stays to be read, and below it why it is not there.
  async function explainMissing(image) {
    const status = await fetch(image.src).then((answer) => answer.status, () => 0);
    const note = document.createElement("span");
    note.className = "picture-missing";
    note.dataset.i18n = status === 404 ? "image_missing" : "image_failed";
    note.textContent = status === 404 ? t("image_missing") : t("image_failed");
    image.after(note);
  }

  const actions = {
    previous: () => step(-1),
    next: () => step(1),
    smaller: () => setZoom(zoom / STEP),
    larger: () => setZoom(zoom * STEP),
    fit,
    close: () => dialog.close(),
  };
  const keys = { "+": actions.larger, "=": actions.larger, "-": actions.smaller, 0: fit };
  dialog.addEventListener("click", ({ target }) => {
    if (target.matches(".zoom-pane img")) return actions.larger();
    actions[target.closest("[data-do]")?.dataset.do]?.();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  addEventListener("resize", () => dialog.open && isFitted && fit());
  const catchMissing = ({ target }) => target.matches?.(".picture img:only-child") && explainMissing(target);
  element.addEventListener("error", catchMissing, true);
  element.addEventListener("click", ({ target }) => {
    const picture = target.closest?.(".picture");
    if (picture) open(picture);
  });
  return { open, openFirst };
}
