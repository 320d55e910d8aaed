// Small plots of the page of raters, as SVG: a dot with its 95 % interval on an axis that all rows share, and time lines.
const SVG = "http://www.w3.org/2000/svg";
function createShape(tag, attributes, ...children) {
  const shape = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
  shape.append(...children);
  return shape;
}

// The ends of an axis on which figures, each {value, low, high}, can be compared. Outliers end at the edge.
function chooseAxis(figures, fixed) {
  if (fixed) return fixed;
  const highs = figures.map(({ value, high }) => Math.min(high, 3 * value || high)).sort((a, b) => a - b);
  const lows = figures.map(({ value, low }) => Math.max(low, value - 3 * Math.abs(value) || low)).sort((a, b) => a - b);
  return [Math.min(0, lows[Math.ceil(0.02 * (lows.length - 1))] ?? 0), highs[Math.floor(0.98 * (highs.length - 1))] || 1];
}

// A dot with its interval; `usual` is the median of all raters, drawn as a dashed line. `label` says the same in words.
function createDotPlot({ value, low, high }, [start, end], usual, label) {
  const x = (at) => 4 + 112 * Math.min(1, Math.max(0, (at - start) / (end - start || 1)));
  const svg = createShape("svg", { viewBox: "0 0 120 18", role: "img", "aria-label": label, preserveAspectRatio: "none" });
  svg.append(createShape("line", { class: "axis", x1: 4, x2: 116, y1: 9, y2: 9 }));
  if (usual !== null) svg.append(createShape("line", { class: "usual", x1: x(usual), x2: x(usual), y1: 1, y2: 17 }));
  svg.append(createShape("line", { class: "interval", x1: x(low), x2: x(high), y1: 9, y2: 9 }));
  svg.append(createShape("ellipse", { class: "dot", cx: x(value), cy: 9, rx: 3.4, ry: 3.8 }));
  return svg;
}

// A line through the values of sessions, in their order, with intervals where there are any.
function createTimeLine(figures, [start, end], className, label, formatEnd) {
  const width = 560;
  const height = 80;
  const x = (index) => 42 + ((width - 52) * (index + 0.5)) / figures.length;
  const y = (at) => height - 8 - (height - 16) * Math.min(1, Math.max(0, (at - start) / (end - start || 1)));
  const svg = createShape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: `time-line ${className}` });
  for (const at of [start, end]) {
    svg.append(createShape("line", { class: "axis", x1: 40, x2: width - 8, y1: y(at), y2: y(at) }));
    svg.append(createShape("text", { x: 36, y: y(at) + 3, "text-anchor": "end" }, formatEnd(at)));
  }
  const known = figures.map((figure, index) => [index, figure]).filter(([, figure]) => figure);
  for (const [index, { low, high }] of known)
    if (low !== undefined) svg.append(createShape("line", { class: "interval", x1: x(index), x2: x(index), y1: y(low), y2: y(high) }));
  svg.append(createShape("polyline", { class: "line", points: known.map(([index, { value }]) => `${x(index)},${y(value)}`).join(" ") }));
  for (const [index, { value }] of known) svg.append(createShape("circle", { class: "dot", cx: x(index), cy: y(value), r: 2.6 }));
  return svg;
}
