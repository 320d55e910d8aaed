"""What the HTML reports share: a page that needs no other file, light, dark and on paper, and plots as inline SVG.

A plot has no background, and its letters and axes have the colour of the text around it. Its own colours have a
contrast of four to both backgrounds, and are told apart by people who see no red or green (after Okabe & Ito 2008).
What a plot shows is also in its title or on its axes, never in colour alone.
"""

from __future__ import annotations

import io
from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING, Any

from rlhf_hitl.visible import make_cell_visible, make_visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2e7fc2", "#cf5a1a", "#7d7d7d"
MIN_LABELS_DRAWN = 40  # fewer labels in a plot of shares or counts show a pattern that is not there

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:\
{% if script %}; script-src '{{ script_hash }}'{% endif %}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f27; --soft: #565e6b; --line: #d5d9e0; --panel: #f6f7f9;
  --warn: #7c3a06; --warn-paper: #fdf0d8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e6e8ec; --soft: #a4abb6; --line: #363d48;
  --panel: #1a1e25; --warn: #ffc46b; --warn-paper: #33260f; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --panel: #fff;
  --warn: #000; --warn-paper: #fff; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--paper); overflow-wrap: anywhere; }
h1 { margin-bottom: .2rem; }
h2 { margin-top: 2rem; }
.cards, .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: 1rem; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.plots.few { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); align-items: start; }
.card, article, figure { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; background: var(--panel); }
.card b { display: block; font-size: 1.6rem; margin: .2rem 0; font-variant-numeric: tabular-nums; }
.card small { display: block; }
.card small + small { margin-top: .3rem; }
small, .quiet, figcaption { color: var(--soft); }
.notice { background: var(--warn-paper); color: var(--warn); border: 1px solid currentColor; border-radius: .4rem;
  padding: .5rem 1rem; margin: .6rem 0; }
figure { margin: 0; }
figcaption { font-size: .9rem; }
figure svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
article { margin: 1rem 0; }
article .answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: 1rem; }
pre { white-space: pre-wrap; font: inherit; margin: .3rem 0; max-height: 24rem; overflow: auto; }
.role { font-size: .8rem; color: var(--soft); }
.gate { padding-left: 0; list-style: none; }
.gate b { display: inline-block; min-width: 4.5rem; }
@media print {
  body { max-width: none; margin: 0; font-size: 11pt; }
  .card, figure, tr, .notice { break-inside: avoid; }
  h2 { break-after: avoid; }
  pre { max-height: none; }
}
{{ styles|safe }}
</style></head><body><main>
{% block body %}{% endblock %}
</main>{% if script %}<script>{{ script|safe }}</script>{% endif %}</body></html>
"""


def render_page(title: str, body: str, *, script: str = "", styles: str = "", **values: Any) -> str:
    """Return a page with a body that is a Jinja template of these `values`.

    They are escaped, and characters that cannot be seen or that reorder others are shown by their names.

    Args:
        script: JavaScript of ours, the only one that the page's policy lets run; it holds no data.
        styles: of ours, beside those that all reports share.
    """
    from jinja2 import DictLoader, Environment

    templates = {"page": _PAGE, "body": "{% extends 'page' %}{% block body %}" + body + "{% endblock %}"}
    environment = Environment(autoescape=True, finalize=_make_visible, loader=DictLoader(templates))
    digest = b64encode(sha256(script.encode()).digest()).decode()
    hashes = {"script": script, "script_hash": f"sha256-{digest}"}
    return environment.get_template("body").render(title=title, styles=styles, **hashes, **values)


def make_figure(height: float, width: float = 8.0) -> tuple[Figure, Axes]:
    """Return an empty plot of this size in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def show_percent(*sides: Axis) -> None:
    """Write the numbers of an axis of shares as per cent."""
    from matplotlib.ticker import PercentFormatter

    for side in sides:
        side.set_major_formatter(PercentFormatter(1, decimals=0))


def draw_svg(figure: Figure, title: str) -> str:
    """Return the figure as an `<svg>` element with a name for screen readers. Equal figures give equal text."""
    from matplotlib import rc_context

    out = io.StringIO()
    # Text stays text: it can be read out and searched, and has a tenth of the size of outlines.
    with rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    head, rest = text[text.index("<svg") :].split(">", 1)
    # What matplotlib draws in black: lines say so, letters have no colour and take that of the whole.
    rest = rest.replace("#000000", "currentColor")
    return f'{head} role="img" aria-label="{escape(title)}" fill="currentColor">{rest}'


def say_too_few_to_draw(n: int) -> str:
    """Return what stands in place of a plot of too few labels, as HTML."""
    return f'<p class="quiet">Too few labels to draw ({n}; {MIN_LABELS_DRAWN} needed).</p>'


def make_label(text: str) -> str:
    """Return a text for a plot: matplotlib takes a dollar sign for the start of a formula."""
    return make_cell_visible(text).replace("$", r"\$")


def _make_visible(value: Any) -> Any:
    return make_visible(value) if type(value) is str else value
