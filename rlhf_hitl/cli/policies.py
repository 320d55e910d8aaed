"""Command `policies`: which policy is better as people say, and how each came about."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, make_table
from rlhf_hitl.errors import BadInput
from rlhf_hitl.visible import make_cell_visible

if TYPE_CHECKING:
    from rlhf_hitl.labels.policy_report import PolicyFigures, PolicyReport

MATRIX_SHOWN = 8  # policies, in a terminal


@command("policies")
def show_policies_command(
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Take only votes about prompts with this tag; may be repeated."),
    ] = None,
    language: Annotated[str | None, typer.Option(help="Take only votes about prompts in this language.")] = None,
    style_control: Annotated[
        bool,
        typer.Option(
            "--style-control", help="Control for style: take out what length, headings, lists and bold text win."
        ),
    ] = False,
    lineage: Annotated[
        bool, typer.Option("--lineage", help="Also show which policy was made of which, how, and what gates decided.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(help="Give win rates against this policy.", show_default="the one that others were tuned from"),
    ] = None,
    votes: Annotated[
        Literal["people", "judges", "simulated"] | None,
        typer.Option(
            help="Whose votes count; they are never mixed.", show_default="people, or simulated where nobody has voted"
        ),
    ] = None,
    project: Annotated[str | None, typer.Option(help="Take only the comparisons of this project.")] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Rank the policies that raters have met, blind, by Bradley and Terry's model with ties."""
    from rlhf_hitl.labels.policy_report import describe_lineage, list_roots, make_policy_report
    from rlhf_hitl.labels.policy_votes import read_policy_votes
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.projects import require_project

    tags = dict(_split_tag(text) for text in tag or [])
    opened = Store.open(store)
    if project is not None:
        with opened.read() as conn:
            require_project(conn, project)
    read = read_policy_votes(opened, votes, project=project, with_style=style_control)
    report = make_policy_report(
        read, list_roots(opened), base=base, language=language, tags=tags, style_control=style_control
    )
    lines = describe_lineage(opened)
    more: list[Any] = ["", make_matrix(report)] if len(report.policies) > 1 else []
    if report.style:
        more += ["", make_style_table(report)]
    if lineage:
        more += ["", make_lineage_table(lines)]
    return Result(report.as_dict() | {"lineage": lines, "notes": report.say_notes()}, make_ranking(report), more=more)


def _split_tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadInput(f"--tag {text}", expected="NAME=VALUE", fix="such as --tag topic=code")
    return name, value


def make_ranking(report: PolicyReport) -> Any:
    """Return the ranking as a table, with what it rests on below it."""
    from rich.console import Group
    from rich.text import Text

    only = [f"{name}={value}" for name, value in report.tags.items()]
    only += [] if report.language is None else [f"in {report.language}"]
    title = "Policies" + (f" ({', '.join(only)})" if only else "")
    title += ", simulated votes" if report.population == "simulated" else ""
    title += ", as models judge" if report.population == "judges" else ""
    if not report.policies:
        nothing = "No vote compares two policies here. Fix: have raters compare answers of two policies (`rlhf-hitl "
        nothing += "generate` with each, then `rlhf-hitl serve`), import votes that name policies, or filter less"
        return Group(Text(make_cell_visible(title)), Text(nothing), *map(Text, report.say_notes()[1:]))
    against = "the average" if report.base is None else report.base
    rows = []
    for figures in report.policies:
        cells = [str(figures.rank), figures.policy, f"{figures.rating:.0f}", say_interval(figures)]
        cells += [] if not report.style else [f"{figures.plain_rating:.0f}, rank {figures.plain_rank}"]
        won = "base" if figures.policy == report.base else say_win_rate(figures)
        rows.append((*cells, won, f"{figures.votes:,.4g}", f"{figures.prompts:,}"))
    columns = ["rank", "policy", "rating", "95 % interval"] + (["without style control"] if report.style else [])
    columns += [f"win rate against {make_cell_visible(against)}", "votes", "prompts"]
    groups = [[row for row, of in zip(rows, report.policies) if of.group == g] for g in range(report.groups)]
    tables = [
        make_table(title if report.groups == 1 else f"{title}, group {g + 1}", of_group, tuple(columns))
        for g, of_group in enumerate(groups)
    ]
    return Group(*tables, *(Text(make_cell_visible(note)) for note in report.say_notes()))


def say_interval(figures: PolicyFigures) -> str:
    """Return the interval of a rating; what nothing bounds is said in words."""
    if figures.low is None and figures.high is None:
        return "none yet"
    swept = f", {figures.swept} all" if figures.swept else ""
    if figures.high is None:
        return f"{figures.low:.0f} or more{swept}"
    if figures.low is None:
        return f"{figures.high:.0f} or less{swept}"
    return f"{figures.low:.0f} to {figures.high:.0f}"


def say_win_rate(figures: PolicyFigures) -> str:
    if figures.win_rate is None:
        return ""
    interval = "" if figures.win_low is None else f" ({figures.win_low:.0%} to {figures.win_high:.0%})"
    return f"{figures.win_rate:.0%}{interval}"


def make_matrix(report: PolicyReport) -> Any:
    """Return who beats whom as a table: the share of the votes that prefer the row's, a tie as half, and how many.

    Columns are called by letters, which stand before the names of the rows: numbers would be taken for ranks.
    """
    from rich.console import Group
    from rich.text import Text

    names = [figures.policy for figures in report.policies][:MATRIX_SHOWN]

    def say(row: int, column: int) -> str:
        n = report.wins[row][column] + report.wins[column][row] + report.ties[row][column]
        return f"{(report.wins[row][column] + report.ties[row][column] / 2) / n:.0%} ({n:.4g})" if n else ""

    letters = ascii_uppercase[: len(names)]
    rows = [(f"{letters[n]}: {name}", *(say(n, m) for m in range(len(names)))) for n, name in enumerate(names)]
    columns = ("preferred to", *letters)
    table = make_table("Who beats whom (a tie is half) and votes", rows, columns)
    left_out = len(report.policies) - len(names)
    return Group(table, Text(f"Not shown: {left_out} more; --json has all.")) if left_out else table


def make_style_table(report: PolicyReport) -> Any:
    rows = [(s.feature, f"{s.value:+.3f}", f"{s.low:+.3f} to {s.high:+.3f}") for s in report.style]
    return make_table("What style is worth (logits for one standard deviation more)", rows, ("", "", "95 % interval"))


def make_lineage_table(lines: Sequence[dict[str, Any]]) -> Any:
    """Return the lineage as a table: what was made of what stands below it, further in."""
    if not lines:
        return "No policy is recorded yet: imports, `rlhf-hitl generate`, trainings and the loop record theirs."
    rows = [
        (
            "  " * line["depth"] + ("└ " if line["depth"] else "") + line["policy"],
            line["method"] or "not recorded",
            "" if line["round"] is None else line["round"],
            line["reward_model"] or "",
            "; ".join(filter(None, [_say_place(line), line["gate"] or ""])),
        )
        for line in lines
    ]
    return make_table("Lineage", rows, ("policy", "method", "round", "reward model", ""))


def _say_place(line: dict[str, Any]) -> str:
    """Return where the completions of a policy came from that was not made here, or that a folder is not there."""
    if line["method"] in ("import", "endpoint"):
        return f"from {line['path']}"
    return "folder not there: deleted or moved" if line["place"] == "gone" else ""
