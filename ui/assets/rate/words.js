// The interface in the rater's language. The translations are Gradio's own (gr.I18n in ui/pages.py): they come with the
// page, so a rater may change the language without loading it anew.
function words(element, kept) {
  const known = window.gradio_config?.i18n_translations ?? {};
  const RIGHT_TO_LEFT = ["ar", "fa", "he", "ur"];
  const wanted = [kept.get("language", ""), ...navigator.languages].map((tag) => tag.toLowerCase().split("-")[0]);
  let language = wanted.find((tag) => tag in known) ?? "en";

  function t(key, values = {}) {
    const text = known[language]?.[key] ?? known.en?.[key] ?? key;
    return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
  }
  const number = (n, how) => new Intl.NumberFormat(language, how).format(n);
  function paint(root = element) {
    for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t, node.dataset.n && { n: number(node.dataset.n) });
    for (const node of root.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
    for (const node of root.querySelectorAll("[data-t-hint]")) node.placeholder = t(node.dataset.tHint);
  }
  function speak(tag) {
    language = tag in known ? tag : "en";
    document.documentElement.lang = language;
    // Gradio says ltr on its own element round the page.
    document.documentElement.dir = element.dir = RIGHT_TO_LEFT.includes(language) ? "rtl" : "ltr";
    document.title = t("title");
    paint();
  }
  return {
    t,
    paint,
    speak,
    number,
    time: (iso) => new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso)),
    get language() {
      return language;
    },
    get languages() {
      return Object.keys(known);
    },
  };
}
