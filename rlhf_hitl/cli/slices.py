"""Commands `slices …`: filters over comparisons that have a name."""

from __future__ import annotations

from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.errors import BadInput

IDS_SHOWN = 20

slice_group = typer.Typer(help="Manage slices: filters over comparisons that have a name.", no_args_is_help=True)
app.add_typer(slice_group, name="slices")


@command("add", slice_group)
def add_slice_command(
    name: Annotated[str, typer.Argument(help="The name of the slice.")],
    where: Annotated[
        list[str],
        typer.Option(
            help="A condition, NAME=VALUE: words, tag (as tag=NAME=VALUE), project, split, language, policy, route, "
            "round, state, agreement, outcome, verdict, rater, judge, kind, ids, or least_ or most_ votes or entropy. "
            "May be repeated; of several values of one name any will do."
        ),
    ],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Keep a filter under a name, as the page /data does."""
    from rlhf_hitl.store import Store, slices
    from rlhf_hitl.types.catalog import ComparisonFilter

    pairs = []
    for condition in where:
        key, separator, value = condition.partition("=")
        if not separator:
            raise BadInput(f"--where {condition!r}", expected="NAME=VALUE", fix="write e.g. --where route=human")
        pairs.append((key.strip(), value))
    made = slices.add_slice(Store.open(store), name, ComparisonFilter.from_pairs(pairs), description)
    return Result(
        _to_json(made), make_table("Slice", _to_cells(made)), more=[f"See it with `rlhf-hitl slices show {name}`"]
    )


@command("list", slice_group)
def list_slices_command(*, store: StoreUrl, json: AsJson = False) -> Result:
    """List the slices."""
    from rlhf_hitl.store import Store, slices

    found = slices.list_slices(Store.open(store))
    rows = [(s.name, _say_filter(s), s.description) for s in found]
    return Result({"slices": [_to_json(s) for s in found]}, make_table("Slices", rows, ("slice", "filter", "for")))


@command("show", slice_group)
def show_slice_command(
    name: Annotated[str, typer.Argument(help="The name of the slice.")], *, store: StoreUrl, json: AsJson = False
) -> Result:
    """Show what is in a slice now: how many comparisons, their ids, and their votes."""
    from rlhf_hitl.store import Store, slices
    from rlhf_hitl.store.catalog import count_facets, find_comparison_ids

    opened = Store.open(store)
    found = slices.get_slice(opened, name)
    ids = list(find_comparison_ids(opened, found.filter))
    counts = count_facets(opened, found.filter).counts
    data = _to_json(found) | {"comparisons": len(ids), "ids": ids}
    shown = {"comparisons": f"{len(ids):,}"}
    shown |= {
        facet: ", ".join(f"{v} {n:,}" for v, n in counts[facet].items()) for facet in ("state", "agreement", "route")
    }
    more = [f"The newest {IDS_SHOWN} of them; --json names all."] if len(ids) > IDS_SHOWN else []
    return Result(data, make_table(name, _to_cells(found) | shown), more=["\n".join(ids[:IDS_SHOWN]), *more])


@command("remove", slice_group)
def remove_slice_command(
    name: Annotated[str, typer.Argument(help="The name of the slice.")], *, store: StoreUrl, json: AsJson = False
) -> Result:
    """Forget a slice. Comparisons, and what was computed of them, stay."""
    from rlhf_hitl.store import Store, slices

    slices.remove_slice(Store.open(store), name)
    return Result({"removed": name}, f"Removed the slice {name}")


def _to_json(found) -> dict:
    return {"name": found.name, "filter": found.filter.to_plain(), "description": found.description}


def _to_cells(found) -> dict[str, str]:
    return {"name": found.name, "filter": _say_filter(found), "for": found.description}


def _say_filter(found) -> str:
    return ", ".join(f"{name}={value}" for name, value in found.filter.to_pairs())
