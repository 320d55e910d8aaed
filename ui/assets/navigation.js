// The navigation that all pages share (navigation.html): show the links to the pages that whoever is signed in may open;
// until the server has said which, those of the last page, so that nothing moves when it has.
async function showNavigation(element) {
  const storage = createStorage("rlhf_hitl.");
  const links = [...element.querySelectorAll("[data-page]")];
  if (links.every((link) => !link.hidden)) return;
  const show = (pages) => {
    for (const link of links) link.hidden = !pages.includes(link.dataset.page);
    element.querySelector(".pages").hidden = pages.length < 2;
  };
  const known = storage.get("pages", null);
  if (Array.isArray(known)) show(known);
  const response = await fetch("../me", { cache: "no-store" }).catch(() => null);
  if (!response?.ok) return; // the page says what is wrong, and works without links
  const { pages } = await response.json();
  show(pages);
  storage.set("pages", pages);
}
