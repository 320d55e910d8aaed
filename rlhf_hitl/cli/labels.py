"""Commands `labels …`: what the votes say together, and of the raters."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, LabelModelOption, Result, StoreUrl, app, command, make_table
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.types import DEFAULT_LABEL_MODEL
from rlhf_hitl.wording import say_count

label_group = typer.Typer(help="Make labels of votes, and see what they say of raters.", no_args_is_help=True)
app.add_typer(label_group, name="labels")

RATERS_SHOWN = 20


@command("fit", label_group)
def fit_labels_command(
    label_model: LabelModelOption = "raters",
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Fit a label model to all votes and keep it, for pages and the queue.

    Training, exports and evaluations do not need it: they fit the model that they are told to use themselves.
    """
    from rlhf_hitl.labels.kept_fits import fit_and_keep_labels
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.imports import finish_waiting_imports

    opened = Store.open(store)
    finish_waiting_imports(opened)
    fit = fit_and_keep_labels(opened, label_model)
    if not fit.figures["votes"]:
        raise BadInput(
            f"store {opened.safe_url} without votes",
            expected="at least one judgment that ranks something",
            fix="rate comparisons (`rlhf-hitl serve`) or import votes (`rlhf-hitl import`)",
        )
    return Result(_to_plain(fit), make_table(f"Labels by {label_model}", _describe(fit)), more=[*_note(fit)])


@command("list", label_group)
def list_label_fits_command(store: StoreUrl, json: AsJson = False) -> Result:
    """List the fits that are kept, the newest first, and the raters of the newest rater model."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.judgments import read_store_revision
    from rlhf_hitl.store.label_fits import list_label_fits, load_rater_estimates

    opened = Store.open(store)
    fits, revision = list_label_fits(opened), read_store_revision(opened)
    of_raters = next((fit for fit in fits if fit.label_model == "raters"), None)
    with opened.read() as conn:
        estimates = load_rater_estimates(conn, of_raters.id) if of_raters else []
    rows = [
        (fit.label_model, f"{fit.created_at:%Y-%m-%d %H:%M}", fit.figures["labels"], fit.figures["votes"],
         "no" if fit.revision == revision else say_count(revision - fit.revision, "judgment") + " since")
        for fit in fits
    ]  # fmt: skip
    title = "Kept labels" if fits else "No labels are kept: make some with `rlhf-hitl labels fit`"
    more: list[Any] = []
    if estimates:
        shown = [
            (e["name"], e["votes"], f"{e['reliability']:.2f}", f"{e['reliability_low']:.2f} to "
             f"{e['reliability_high']:.2f}", f"{e['position_bias']:+.2f}")
            for e in estimates[:RATERS_SHOWN]
        ]  # fmt: skip
        columns = ("rater", "votes", "reliability", "95 % interval", "position bias")
        more.append(make_table("Raters, the most reliable first (1: the typical one)", shown, columns))
        if (left := len(estimates) - RATERS_SHOWN) > 0:
            more.append(f"… and {left:,} more: --json has all")
    data = {"fits": [_to_plain(fit) for fit in fits], "raters": estimates}
    return Result(data, make_table(title, rows, ("label model", "made", "labels", "votes", "stale")), more=more)


@command("show", label_group)
def show_label_command(
    comparison: Annotated[str, typer.Argument(metavar="COMPARISON", help="The id of a comparison.")],
    label_model: LabelModelOption = DEFAULT_LABEL_MODEL,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Show the votes on a comparison, what each is worth, and the labels they make."""
    from dataclasses import asdict

    from rlhf_hitl.labels.fitting import fit_label_model
    from rlhf_hitl.labels.votes import read_votes
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.people import list_raters

    opened = Store.open(store)
    votes = next((votes for id, votes in read_votes(opened, comparison_id=comparison)), [])
    if not votes:
        raise NotFound(
            f"votes on comparison {comparison!r}",
            expected="a comparison that was judged, and does not measure raters",
            fix="take an id from `rlhf-hitl export` or the page of the data",
        )
    model = fit_label_model(opened, label_model)
    labels = model.make_labels(comparison, votes)
    people = {rater.id: rater.name for rater in list_raters(opened)}
    # Of an imported vote the order may not be known: its ranking names the completions, too.
    ids = {i for vote in votes for group in (vote.order_shown, *vote.ranking) for i in group}
    ids |= {i for label in labels for i in (label.first, label.second)}
    names = {i: f"{n}" for n, i in enumerate(sorted(ids), 1)}
    said = [
        (people[vote.rater_id], vote.role, " > ".join(" = ".join(names[i] for i in group) for group in vote.ranking)
         or vote.verdict, f"{vote.weight * model.get_rater_weight(vote.rater_id):.2f}")
        for vote in votes
    ]  # fmt: skip
    rows = [
        (f"{names[label.first]} and {names[label.second]}", *(f"{p:.2f}" for p in label.probabilities),
         label.votes, f"{label.weight:.2f}", "a lead" if label.adjudicated else "raters")
        for label in labels
    ]  # fmt: skip
    data = {"comparison_id": comparison, "label_model": label_model, "labels": [asdict(label) for label in labels]}
    data["votes"] = [asdict(vote) | {"worth": vote.weight * model.get_rater_weight(vote.rater_id)} for vote in votes]
    table = make_table(f"Votes on {comparison}", said, ("rater", "role", "said", "worth"))
    columns = ("pair", "first better", "tie", "second better", "votes", "weight", "decided by")
    return Result(data, table, more=[
        make_table(f"Labels by {label_model}", rows, columns),
        "Completions: " + ", ".join(f"{n} is {i}" for i, n in names.items()),
    ])  # fmt: skip


def _to_plain(fit: Any) -> dict[str, Any]:
    return vars(fit) | {"created_at": fit.created_at.isoformat()}


def _describe(fit: Any) -> dict[str, Any]:
    figures = fit.figures
    rows: dict[str, Any] = {
        "labels": figures["labels"],
        "votes": figures["votes"],
        "decided by leads": figures["adjudicated"],
    }
    if reliability := figures["reliability"]:
        rows |= {
            "raters": reliability["raters"],
            "their reliability": f"median {reliability['median']:.2f}, from {reliability['lowest_tenth']:.2f} to "
            f"{reliability['highest_tenth']:.2f} for the middle 80 %",
            "answer without looking": f"{reliability['random_share']:.1%}",
        }
    rows |= {
        "labels that prefer a side": figures["decided"],
        "labels other than plain shares give": f"{figures['changed']:,}; {figures['turned']:,} prefer the other side",
    }
    return rows


def _note(fit: Any) -> list[str]:
    return ["Some of the judgments are simulated."] * fit.simulated
