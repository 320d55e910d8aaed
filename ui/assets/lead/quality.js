// How the lead's page draws how far raters agree and what they reward: each row is a point in its interval, and a number.
// Titles and notes come in English, as those of the figures do.
function createQualityView({ $, t, language }) {
  const percentFormat = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 });
  const valueFormat = new Intl.NumberFormat(language, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const NONE = "—";
  const english = { lang: "en", dir: "ltr" };

  function showQuality({ agreement, agreement_note: agreementNote, effects, policies, bias_note: biasNote }) {
    redraw($("agreement-rows"), ...agreement.map((row) => createRow(row, 0)));
    redraw($("bias-rows"), ...effects.map((row) => createRow(row, 0.5)));
    redraw($("policy-rows"), ...policies.map((row) => createRow(row, 0.5)));
    $("policies").hidden = !policies.length;
    $("agreement-note").textContent = agreementNote;
    $("bias-note").textContent = biasNote;
  }
  // `nothing` is the value that means chance, or no effect.
  function createRow({ title, value, low, high, is_share: isShare }, nothing) {
    const format = (number) => (isShare ? percentFormat : valueFormat).format(number);
    const strip = createElement("span", { className: "strip", attributes: { "aria-hidden": "true" } });
    const place = (className, from, to) => {
      const mark = createElement("i", { className });
      const [start, end] = [from, to].map((share) => Math.min(1, Math.max(0, share)));
      mark.style.insetInlineStart = `${100 * start}%`;
      mark.style.width = end > start ? `${100 * (end - start)}%` : "";
      strip.append(mark);
    };
    place("nothing", nothing, nothing);
    if (low !== null) place("interval", low, high);
    if (value !== null) place("point", value, value);
    const interval = low === null ? "" : t("figure_interval", { low: format(low), high: format(high) });
    return createElement(
      "div",
      { className: value === null ? "unknown" : "", data: { key: title } },
      createElement("dt", english, createElement("bdi", {}, title)),
      createElement("dd", {}, strip, createElement("b", {}, value === null ? NONE : format(value)), createElement("span", { className: "note" }, interval)),
    );
  }
  return { showQuality };
}
