// The navigation that all pages share (navigation.html): show the links to the pages that whoever is signed in may open.
async function showNavigation(element) {
  const links = [...element.querySelectorAll("[data-page]")];
  if (links.every((link) => !link.hidden)) return;
  const response = await fetch("../me", { cache: "no-store" }).catch(() => null);
  if (!response?.ok) return; // the page says what is wrong, and works without links
  const { pages } = await response.json();
  for (const link of links) link.hidden = !pages.includes(link.dataset.page);
  element.querySelector(".pages").hidden = pages.length < 2;
}
