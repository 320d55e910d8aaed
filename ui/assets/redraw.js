// Replace what a box holds by what was drawn anew, and touch nothing that is the same: the focus, a selection of text and
// how far something is scrolled stay. Elements with a `data-key` are the same where their keys are; others, by place.
function redraw(box, ...drawn) {
  const fresh = document.createElement("div");
  fresh.append(...drawn);
  redrawChildren(box, fresh);
}

// The nodes of HTML that the server made by a template, which escapes everything.
function parseHtml(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return [...template.content.childNodes];
}

function redrawChildren(old, fresh) {
  const wantedKeys = new Set([...fresh.children].map(keyOf).filter(Boolean));
  for (const child of [...old.children]) if (keyOf(child) && !wantedKeys.has(keyOf(child))) child.remove();
  const byKey = new Map([...old.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let place = old.firstChild;
  for (const node of [...fresh.childNodes]) {
    const twin = keyOf(node) ? byKey.get(keyOf(node)) : place && !keyOf(place) && isAlike(place, node) ? place : null;
    if (!twin) {
      old.insertBefore(node, place);
    } else {
      if (twin === place) place = place.nextSibling;
      else old.insertBefore(twin, place);
      redrawNode(twin, node);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}
const keyOf = (node) => node.dataset?.key;
const isAlike = (node, other) => node.nodeName === other.nodeName && (node.id ?? "") === (other.id ?? "");

function redrawNode(node, fresh) {
  if (node.nodeType !== Node.ELEMENT_NODE) {
    if (node.data !== fresh.data) node.data = fresh.data;
    return;
  }
  for (const { name } of [...node.attributes]) if (!fresh.hasAttribute(name)) node.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  redrawChildren(node, fresh);
}
