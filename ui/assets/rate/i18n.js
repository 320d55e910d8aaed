// The interface in the rater's language. The translations are Gradio's own (gr.I18n in ui/pages.py): they come with the
// page, so a rater may change the language without loading the page again.
function createI18n(element, storage) {
  const RIGHT_TO_LEFT = ["ar", "fa", "he", "ur"];
  const translations = window.gradio_config?.i18n_translations ?? {};
  const preferred = [storage.get("language", ""), ...navigator.languages].map((tag) => tag.toLowerCase().split("-")[0]);
  let language = preferred.find((tag) => tag in translations) ?? "en";

  // The text for a key of assets/words/, with its {placeholders} filled in.
  function t(key, values = {}) {
    const text = translations[language]?.[key] ?? translations.en?.[key] ?? key;
    return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
  }
  const formatNumber = (value) => new Intl.NumberFormat(language).format(value);
  const formatList = (texts, type = "conjunction") => new Intl.ListFormat(language, { type }).format(texts); // or "disjunction"
  function formatTime(iso) {
    return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso));
  }
  // Write the texts of everything below `root` that names a key in a data-i18n attribute.
  function translate(root = element) {
    for (const node of root.querySelectorAll("[data-i18n]"))
      node.textContent = t(node.dataset.i18n, node.dataset.count && { n: formatNumber(node.dataset.count) });
    for (const node of root.querySelectorAll("[data-i18n-alt]")) node.alt = t(node.dataset.i18nAlt, node.dataset);
    for (const node of root.querySelectorAll("[data-i18n-label]")) node.setAttribute("aria-label", t(node.dataset.i18nLabel));
  }
  function setLanguage(tag) {
    language = tag in translations ? tag : "en";
    document.documentElement.lang = language;
    // Gradio sets dir="ltr" on its own element around the page.
    document.documentElement.dir = element.dir = RIGHT_TO_LEFT.includes(language) ? "rtl" : "ltr";
    const titled = element.querySelector("[data-title]"); // a page that shares the scripts of the rating page
    document.title = titled ? `${t(titled.dataset.title)} · rlhf_hitl` : t("title");
    translate();
  }
  return {
    t,
    translate,
    setLanguage,
    formatNumber,
    formatList,
    formatTime,
    get language() {
      return language;
    },
    get languages() {
      return Object.keys(translations);
    },
  };
}
