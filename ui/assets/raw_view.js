// The raw view: texts exactly as they were written, instead of formatted. The page has both (ui/conversation.py); a class
// says which one is shown. The browser remembers it, for all pages.
function createRawView(element, storage, buttons, onChange) {
  const isOn = () => storage.get("raw_view", false);
  function show() {
    element.querySelector(".page-root").classList.toggle("raw-view", isOn());
    for (const button of buttons) button.setAttribute("aria-pressed", String(isOn()));
  }
  function toggle() {
    storage.set("raw_view", !isOn());
    show();
    onChange(isOn());
  }
  show();
  return { toggle, isOn };
}
