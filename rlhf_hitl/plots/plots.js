// Plots with uPlot: responsive, light and dark, with a tooltip, by keyboard, and with a table behind each.
// `createPlot(spec, words, language)` returns a <figure>; `spec` is what rlhf_hitl/plots makes. `words` are `table`, the
// name of the table behind, and `interval`, a function of two ends. `marker`, where there is one, is told which place is
// chosen: then the plot is a slider whose place stays (the threshold curve). Texts become text, never HTML.
function createPlot(spec, words, language, marker = null) {
  const DAY = 864e5;
  const colours = ["--plot-a", "--plot-b", "--plot-c"];
  const isNamed = spec.x_kind === "name";
  const xs = spec.x.map((at, index) => (spec.x_kind === "day" ? Date.parse(`${at}T00:00Z`) / DAY : isNamed ? index : at));
  const numberFormat = new Intl.NumberFormat(language, { maximumSignificantDigits: 3 });
  const percentFormat = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 });
  const shortPercentFormat = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 });
  const dayFormat = new Intl.DateTimeFormat(language, { day: "numeric", month: "short", timeZone: "UTC" });
  const units = { seconds: "s", hours: "h", money: spec.currency, share: "", count: "" };
  const say = (value) => (value === null || value === undefined ? "—" : spec.unit === "share" ? percentFormat.format(value) : `${numberFormat.format(value)} ${units[spec.unit]}`.trim());
  const sayX = (at) => (spec.x_kind === "day" ? dayFormat.format(new Date(at * DAY)) : isNamed ? spec.x[at] ?? "" : spec.x_kind === "share" ? numberFormat.format(at) : new Intl.NumberFormat(language).format(at));
  const saySeries = ({ name, values, low, high }, index) => {
    const ends = low && low[index] !== null && high[index] !== null ? ` (${words.interval(say(low[index]), say(high[index]))})` : "";
    return `${name}: ${say(values[index])}${ends}`;
  };
  const sayPlace = (index) => [sayX(xs[index]), ...spec.series.filter(({ values }) => values[index] !== null).map((one) => saySeries(one, index))].join(", ");
  const make = (tag, className, ...children) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...children);
    return node;
  };

  const figure = make("figure", "plot");
  figure.dataset.key = spec.key;
  figure.lang = "en";
  const title = make("figcaption", "plot-title", spec.title);
  const head = make("div", "plot-head", make("span", "plot-unit", spec.y_label));
  figure.append(title, head);
  if (spec.empty) {
    figure.append(make("p", "plot-empty", spec.empty));
    return figure;
  }
  if (spec.series.length > 1)
    spec.series.forEach(({ name, dashed }, n) => {
      const line = make("i", dashed ? "dashed" : "");
      line.style.borderTopColor = `var(${colours[n]})`;
      head.append(make("span", "plot-key", line, name));
    });
  const area = make("div", "plot-area");
  area.tabIndex = 0;
  area.setAttribute("role", "slider");
  area.setAttribute("aria-label", `${spec.title}, ${spec.y_label}`);
  area.setAttribute("aria-valuemin", 0);
  area.setAttribute("aria-valuemax", xs.length - 1);
  const tip = make("div", "plot-tip");
  tip.hidden = true;
  figure.append(area);
  if (spec.note) figure.append(make("p", "plot-note", spec.note));
  figure.append(createTable());

  function createTable() {
    const columns = spec.series.flatMap(({ name, low }) => (low ? [name, "95 %"] : [name]));
    const headRow = make("tr", "", ...[spec.x_label, ...columns].map((text) => make("th", "", text)));
    headRow.childNodes.forEach((cell) => (cell.scope = "col"));
    const rows = xs.map((at, index) => {
      const first = make("th", "", sayX(at));
      first.scope = "row";
      const cells = spec.series.flatMap(({ values, low, high }) => {
        const value = make("td", "", say(values[index]));
        return low ? [value, make("td", "", low[index] === null ? "" : words.interval(say(low[index]), say(high[index])))] : [value];
      });
      return make("tr", "", first, ...cells);
    });
    const table = make("div", "plot-table", make("table", "", make("thead", "", headRow), make("tbody", "", ...rows)));
    table.tabIndex = 0;
    table.setAttribute("role", "region");
    table.setAttribute("aria-label", spec.title);
    return make("details", "", make("summary", "", words.table), table);
  }

  // --- what is drawn
  const colour = (name) => getComputedStyle(figure).getPropertyValue(name).trim();
  const finite = (values) => values.filter((value) => value !== null && value !== undefined);
  const everything = spec.series.flatMap(({ values, low, high }) => finite([...values, ...(low ?? []), ...(high ?? [])])).concat(spec.marks.map(([at]) => at));
  function chooseRange() {
    if (!spec.from_zero) {
      const [least, most] = [Math.min(...everything), Math.max(...everything)];
      const room = (most - least || 0.02) * 0.15;
      return spec.unit === "share" ? [Math.max(0, least - room), Math.min(1, most + room)] : [least - room, most + room];
    }
    if (spec.unit === "share" && Math.max(...everything) > 0.5) return [0, 1];
    const most = Math.max(0, ...everything);
    const least = Math.min(0, ...everything);
    const room = (most - least || 1) * 0.08;
    return [least < 0 ? least - room : 0, most + room];
  }
  const isBars = spec.series.some(({ kind }) => kind === "bars");
  function drawIntervals(plot) {
    const { ctx } = plot;
    ctx.save();
    spec.series.forEach(({ low, high }, n) => {
      if (!low) return;
      ctx.strokeStyle = ctx.fillStyle = colour(colours[n]);
      const isDense = xs.length > 30;
      ctx.globalAlpha = isDense ? 0.16 : 0.55;
      ctx.lineWidth = 2 * devicePixelRatio;
      const known = xs.map((at, index) => [plot.valToPos(at, "x", true), low[index], high[index]]).filter(([, from]) => from !== null);
      const y = (value) => plot.valToPos(value, "y", true);
      if (isDense) {
        ctx.beginPath();
        known.forEach(([x, from]) => ctx.lineTo(x, y(from)));
        known.reverse().forEach(([x, , to]) => ctx.lineTo(x, y(to)));
        ctx.fill();
      } else
        for (const [x, from, to] of known) {
          ctx.beginPath();
          ctx.moveTo(x, y(from));
          ctx.lineTo(x, y(to));
          ctx.stroke();
        }
    });
    ctx.restore();
  }
  function drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--plot-ink");
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    for (const [at, label] of spec.marks) {
      const y = plot.valToPos(at, "y", true);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.textAlign = isNamed ? "left" : "right"; // where less is drawn
      ctx.fillText(label, isNamed ? bbox.left + 4 * devicePixelRatio : bbox.left + bbox.width, y - 6 * devicePixelRatio);
    }
    if (marker) {
      ctx.setLineDash([]);
      ctx.strokeStyle = colour("--plot-ink");
      ctx.lineWidth = 3 * devicePixelRatio;
      const x = plot.valToPos(xs[chosen], "x", true);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.beginPath();
      ctx.arc(x, bbox.top + bbox.height / 2, 8 * devicePixelRatio, 0, 2 * Math.PI);
      ctx.fillStyle = colour("--plot-a");
      ctx.fill();
    }
    ctx.restore();
  }
  const last = xs.length - 1;
  let chosen = marker ? marker.start : last;
  let plot = null;
  const ink = () => colour("--plot-ink");
  const grid = { stroke: () => colour("--plot-grid"), width: 1 };
  const font = "12px system-ui, sans-serif";
  const xPad = xs.length === 1 ? 1 : isBars || isNamed ? 0.6 : (xs[last] - xs[0]) * 0.03;
  const options = {
    width: 300,
    height: 200,
    padding: [8, 12, 0, 0],
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, y: false, points: { show: !isBars } },
    scales: { x: { time: false, range: () => [xs[0] - xPad, xs[last] + xPad] }, y: { range: chooseRange } },
    axes: [
      {
        stroke: ink, grid: { show: false }, ticks: grid, font, label: spec.x_label, labelFont: font, labelSize: 18, size: 28, space: isNamed ? 30 : 56,
        ...(spec.x_kind === "share" ? {} : { incrs: [1, 2, 5, 7, 14, 28, 56, 100, 200, 250, 500, 1000, 2000, 5000, 1e4, 2e4, 5e4, 1e5, 1e6] }),
        values: (_, splits) => splits.map((at) => (Number.isInteger(at) || spec.x_kind === "share" ? (isNamed && !(at in spec.x) ? "" : sayX(at)) : "")),
      },
      {
        stroke: ink, grid, ticks: { show: false }, font, size: 52, space: 34,
        values: (_, splits) => splits.map((at) => (spec.unit === "share" ? shortPercentFormat.format(at) : new Intl.NumberFormat(language, { maximumSignificantDigits: 3, notation: Math.abs(at) >= 1e5 ? "compact" : "standard" }).format(at))),
      },
    ],
    series: [
      {},
      ...spec.series.map(({ kind, dashed }, n) => ({
        stroke: () => colour(colours[n]),
        width: isNamed ? 0 : 2,
        dash: dashed ? [6, 5] : undefined,
        fill: kind === "bars" ? () => `${colour(colours[n])}aa` : undefined,
        paths: kind === "bars" ? uPlot.paths.bars({ size: [0.7, 34] }) : kind === "steps" ? uPlot.paths.stepped({ align: 1 }) : isNamed ? () => null : undefined,
        points: { show: kind === "bars" ? false : kind === "line" && xs.length <= 45, size: isNamed ? 10 : 7, fill: () => colour(colours[n]) },
        spanGaps: true,
      })),
    ],
    hooks: { drawClear: [], draw: [drawIntervals, drawMarks], setCursor: [onCursor] },
  };

  // --- what is pointed at
  function onCursor({ cursor }) {
    if (cursor.idx === null || cursor.idx === undefined || cursor.left < 0) {
      tip.hidden = true;
      return;
    }
    showTip(cursor.idx);
  }
  function showTip(index) {
    if (marker) return;
    const lines = [make("b", "", sayX(xs[index])), ...spec.series.filter(({ values }) => values[index] !== null).map((one) => make("div", "", saySeries(one, index)))];
    tip.replaceChildren(...lines);
    tip.hidden = false;
    const left = plot.valToPos(xs[index], "x") + plot.over.offsetLeft;
    const room = area.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(room, left + (left > room - 12 ? -tip.offsetWidth - 12 : 12)))}px`;
    tip.style.top = "0px";
  }
  function choose(index, isTold = true) {
    chosen = Math.max(0, Math.min(last, index));
    area.setAttribute("aria-valuenow", chosen);
    area.setAttribute("aria-valuetext", marker?.say ? marker.say(chosen) : sayPlace(chosen));
    if (marker) {
      if (isTold) marker.onChoose(chosen);
      plot?.redraw(false);
    }
  }
  area.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (event.key === "Escape") tip.hidden = true;
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(chosen + step);
    if (plot) showTip(chosen);
  });
  area.addEventListener("blur", () => (tip.hidden = true));
  if (marker) {
    const chooseAt = (event) => {
      const left = event.clientX - plot.over.getBoundingClientRect().left;
      choose(plot.posToIdx(left));
    };
    area.addEventListener("pointerdown", (event) => {
      if (!plot) return;
      area.setPointerCapture(event.pointerId);
      chooseAt(event);
    });
    area.addEventListener("pointermove", (event) => area.hasPointerCapture(event.pointerId) && chooseAt(event));
    area.style.touchAction = "pan-y";
  }
  choose(chosen, false);

  // --- as wide as there is room, and in the page's colours
  const observer = new ResizeObserver(() => {
    const { clientWidth: width, clientHeight: height } = area;
    if (!width || !height) return;
    if (plot) return plot.setSize({ width, height });
    plot = new uPlot({ ...options, width, height }, [xs, ...spec.series.map(({ values }) => values)], area);
    area.append(tip);
  });
  observer.observe(area);
  const recolour = () => plot?.redraw(false);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  new MutationObserver(recolour).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  figure.chooseMarker = (index) => choose(index);
  return figure;
}
