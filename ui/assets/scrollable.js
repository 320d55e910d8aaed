// Make what scrolls sideways in rendered texts reachable with the Tab key, so that arrow keys can scroll it.
function makeScrollable(element) {
  for (const box of element.querySelectorAll(".text :is(pre, table, .math)"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
}
