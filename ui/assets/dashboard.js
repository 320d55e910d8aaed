// What the pages of leads and evaluators (lead, people, replay) share. `element` holds the page, with #notice, #overview
// and #updated in it.
function createDashboard(element) {
  const $ = (id) => element.querySelector(`#${id}`);

  // Return whether the server did what it was asked. If not, `notice` says why, and nothing has changed.
  function checkAnswer(answer, notice = $("notice")) {
    const problem = answer ? answer.problem : "The server does not answer, or you are signed out. Reload the page.";
    notice.textContent = problem ?? "";
    notice.hidden = !problem;
    return !problem;
  }
  // Show that the page is complete, and when it was loaded.
  function showUpdated() {
    $("overview").removeAttribute("aria-busy");
    $("updated").textContent = `as of ${new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`;
  }
  return { $, checkAnswer, showUpdated };
}

// Create an element with properties, data attributes (`data`) and children. Strings become text and never HTML.
function createElement(tag, { data = {}, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  Object.assign(node.dataset, data);
  node.append(...children);
  return node;
}

// Fill a <select> with options, each [value, text].
function fillSelect(select, options) {
  select.replaceChildren(...options.map(([value, text]) => createElement("option", { value }, text)));
}

// Mark the header of the column by which a table is sorted.
function markSortedColumn(headers, sortedHeader, isAscending) {
  for (const header of headers) header.removeAttribute("aria-sort");
  sortedHeader.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
}

// Copy a text to the clipboard. Resolves to whether that worked: browsers allow it only over TLS and on this machine.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
