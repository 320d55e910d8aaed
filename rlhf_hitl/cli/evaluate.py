"""Command `evaluate`: replay a reward model on raters' labels, keep and show the result, and check gates."""

from __future__ import annotations

import json as jsonlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_hitl.cli import AsJson, LabelModelOption, Result, StoreUrl, command, make_table, require_file_path
from rlhf_hitl.cli.reward_models import (
    RewardModelName,
    describe_model,
    load_requested_model,
    locate_requested_model,
    read_model_id,
)
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, LabelModelName, Split
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.reward.evaluation.gates import SliceThreshold
    from rlhf_hitl.reward.evaluation_record import AccuracyDifference, EvaluatedPair, Evaluation
    from rlhf_hitl.reward.labelled_pairs import LabelledPair
    from rlhf_hitl.reward.model import RewardModel
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.reward_models import RewardModelRecord


@command(
    "evaluate",
    if_interrupted="no evaluation was kept, but what the model has read of the texts is. Give the same command again",
    counts_time=True,
    extra="train",
)
def evaluate_command(
    store: StoreUrl,
    reward_model: RewardModelName = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Replay this preference file or hub id instead of the store's own split."),
    ] = None,
    format: Annotated[
        str, typer.Option(help="Read --data as this format; auto recognises it by the first row.")
    ] = "auto",
    split: Annotated[Split, typer.Option(help="Replay this split of the store.")] = Split.HELDOUT,
    name: Annotated[
        str | None, typer.Option(help="Name the folder of the evaluation.", show_default="split or file, and model")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace an evaluation of this --name that is of another model or other data."
        ),
    ] = False,
    label_model: LabelModelOption = DEFAULT_LABEL_MODEL,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL_OR_EVALUATION", help="Compare with this model or earlier evaluation."),
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="Write one JSON line for each replayed pair to this file.")
    ] = None,
    include_judges: Annotated[
        bool,
        typer.Option("--include-judges", help="Measure against the votes of AI judges, too; the figures say so."),
    ] = False,
    check_order: Annotated[
        bool,
        typer.Option("--check-order", help="Compute 32 pairs anew in both orders: a reward must not depend on it."),
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots to this file.")] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fail (exit 1) if the accuracy is below this.")
    ] = None,
    min_slice: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=VALUE:MIN", help="Fail if a slice is below this accuracy; may be repeated."),
    ] = None,
    max_ece: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fail if the calibration error is above this.")
    ] = None,
    above_floors: Annotated[
        bool, typer.Option("--above-floors", help="Fail if the accuracy is not above every floor.")
    ] = False,
    no_worse_than: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL_OR_EVALUATION",
            help="Compare as --against does, and fail if this model is shown to be worse.",
        ),
    ] = None,
    json: AsJson = False,
) -> Result:
    """Replay raters' labels of held-out prompts: accuracy with floors and a ceiling, calibration, slices and gates."""
    from rlhf_hitl.formats import open_source
    from rlhf_hitl.reward.evaluation.evaluated_pairs import require_judgments, require_votes_of_people
    from rlhf_hitl.reward.evaluation.gates import SliceThreshold, check_gates
    from rlhf_hitl.reward.registry import locate_reward_model
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.reward_models import display_evaluation_name, get_reward_model, list_reward_models

    if name is not None and not re.fullmatch(r"\w[\w.-]{0,149}", name):
        raise BadInput(
            f"--name {name!r}", expected="up to 150 letters, digits, dots and dashes", fix="name it otherwise"
        )
    if against is not None and no_worse_than not in (None, against):
        raise BadInput(
            f"--against {against} with --no-worse-than {no_worse_than}", expected="one of the two", fix="leave one out"
        )
    for flag, given in (("--against", against), ("--no-worse-than", no_worse_than)):
        if given is not None and not given.strip():
            raise BadInput(
                f"{flag} {given!r}", expected="a reward model or an earlier evaluation", fix="name one, or leave it out"
            )
    against = no_worse_than if against is None else against
    slices = tuple(SliceThreshold.parse(text) for text in min_slice or ())
    require_file_path("--examples", examples)
    require_file_path("--html", html)
    if data is not None and split is not Split.HELDOUT:
        raise BadInput(f"--split {split.value} with --data", expected="one of the two", fix="leave --split out")
    if data is None and format != "auto":
        raise BadInput(
            f"--format {format} without --data", expected="--format with --data only", fix="leave --format out"
        )
    if data is not None:
        open_source(data, format)  # an unreadable file is reported before the model is loaded
    opened, workspace = Store.open(store), load_settings().workspace
    model_folder = locate_reward_model(opened, reward_model)  # and so is what is missing
    earlier = _find_evaluation(opened, workspace, against) if against is not None else None
    if against is not None and earlier is None:
        try:
            locate_requested_model(opened, against)
        except NotFound as e:
            fix = f"see `rlhf-hitl models list`, and the folders in {workspace / 'evaluations'}"
            raise NotFound(f"{against!r}", expected="a reward model or an earlier evaluation", fix=fix) from e
    if data is None:
        require_judgments(opened, split)
    with _open_labels(opened, data, format, split, label_model, include_judges) as labels:
        if not include_judges:
            require_votes_of_people(labels.store, labels.split, data)
        if slices:
            labels.require_slices(slices, model_folder)
        if name is not None and not overwrite:
            _refuse_another_evaluation(opened, workspace / "evaluations" / name, model_folder, labels)
        model = load_requested_model(opened, reward_model)
        from rlhf_hitl.reward import model_card
        from rlhf_hitl.reward.evaluation.compare import compare_evaluated_pairs
        from rlhf_hitl.reward.evaluation.storage import load_evaluation, read_evaluated_pairs, save_evaluation

        rival = (
            load_requested_model(opened, against, register=False) if against is not None and earlier is None else None
        )
        name = name or f"{split.value if data is None else _name_from_path(data)}-{model.id}"
        folder = workspace / "evaluations" / name
        replaced = folder.exists()
        evaluation, replayed = labels.replay(model, name, check_order)
        rival_pairs = (
            read_evaluated_pairs(earlier) if earlier else labels.replay(rival, str(against))[1] if rival else None
        )
        # Read before it may be replaced.
        rival_id = load_evaluation(earlier).reward_model_id if earlier else rival.id if rival else None
    is_same_model = rival_id == model.id
    save_evaluation(folder, evaluation, replayed)
    with suppress(OSError):  # the model may be in a folder that this user cannot write to
        model_card.add_evaluation_to_card(get_reward_model(opened, model.id), evaluation)
    models = list_reward_models(opened)
    difference = None
    if rival_pairs is not None:
        difference = compare_evaluated_pairs(replayed, rival_pairs, _name_rival(str(against), earlier, rival, models))
    gates = check_gates(
        evaluation, difference if no_worse_than else None, min_accuracy=min_accuracy, max_ece=max_ece,
        above_floors=above_floors, min_slices=slices,
    )  # fmt: skip
    if examples is not None:
        write_text_atomically(
            examples, "".join(jsonlib.dumps(e.as_dict(), ensure_ascii=False) + "\n" for e in replayed)
        )
    if html is not None:
        from rlhf_hitl.reward.evaluation.html_report import render_evaluation_html

        write_text_atomically(html, render_evaluation_html(evaluation, replayed, gates, difference, models))
    failed = [g for g in gates if not g.passed]
    shown_name = display_evaluation_name(name, models)
    label_kind = "replayed" if data else "held-out" if split is Split.HELDOUT else split.value
    return Result(
        evaluation.as_dict()
        | {
            "folder": str(folder),
            "identical_sides": labels.identical_sides,
            "difference": None
            if difference is None
            else asdict(difference)
            | {"against": against, "is_worse": difference.is_worse, "is_same_model": is_same_model},
            "gates": [{"name": g.name, "passed": g.passed, "said": g.sentence} for g in gates],
            "gate_passed": not failed if gates else None,
        },
        make_table(
            f"Accuracy on {say_count(evaluation.n, f'{label_kind} label')}{_describe_origin(evaluation)}",
            _make_rows(evaluation),
            ("", "value", "95 % interval"),
        ),
        exit_code=1 if failed else 0,
        more=[
            *_make_notes(evaluation, labels.identical_sides, difference),
            *["The model is compared with itself: the other side of this comparison is the same model."]
            * is_same_model,
            *(f"Gate {'passed' if g.passed else 'FAILED'}: {g.name}: {g.sentence}" for g in gates),
            f"Model: {describe_model(opened, model.id)}. Kept as {shown_name} in {folder}"
            f"{', replacing an earlier evaluation' * replaced}{f', report in {html}' if html else ''}",
        ],
    )


@dataclass(frozen=True)
class _ReplayedLabels:
    """The labels to replay: a split of a store and, if that is another store, the one whose labels train the floors."""

    store: Store
    split: Split
    home: Store | None = None
    format: str = ""
    identical_sides: int = 0
    source: str = ""
    label_model: LabelModelName = DEFAULT_LABEL_MODEL
    include_judges: bool = False

    def replay(
        self, model: RewardModel, name: str, check_order: bool = False
    ) -> tuple[Evaluation, list[EvaluatedPair]]:
        from rlhf_hitl.reward.evaluation.evaluate import evaluate_reward_model

        return evaluate_reward_model(
            model, self.store, split=self.split, home=self.home, name=name, format=self.format, replayed=self.source,
            check_order=check_order, label_model=self.label_model, include_judges=self.include_judges,
        )  # fmt: skip

    def hash_pairs(self, model_folder: Path) -> str:
        """Return the `data_hash` that the evaluation of a saved model will have, without loading the model."""
        from rlhf_hitl.reward.labelled_pairs import hash_labelled_pairs

        return hash_labelled_pairs(self._load_unseen(model_folder))

    def require_slices(self, wanted: Sequence[SliceThreshold], model_folder: Path) -> None:
        """Raise NotFound for a slice that the evaluation of a saved model will not have, without loading the model."""
        from rlhf_hitl.reward.evaluation.evaluated_pairs import find_slices
        from rlhf_hitl.reward.evaluation.gates import require_slices

        pairs = self._load_unseen(model_folder)
        if any(p.label.preferred is not None for p in pairs):  # else the replay says that there are none
            require_slices(find_slices(pairs), wanted)

    def _load_unseen(self, model_folder: Path) -> list[LabelledPair]:
        from rlhf_hitl.reward.evaluation.evaluated_pairs import select_unseen
        from rlhf_hitl.reward.labelled_pairs import load_labelled_pairs
        from rlhf_hitl.reward.seen_prompts import SeenPrompts

        seen = SeenPrompts.load(model_folder) or SeenPrompts.of(())
        pairs = load_labelled_pairs(self.store, self.split, self.label_model, judges_measure=self.include_judges)
        return select_unseen(pairs, seen, self.split)


@contextmanager
def _open_labels(
    opened: Store, data: str | None, format: str, split: Split, label_model: LabelModelName, include_judges: bool
) -> Iterator[_ReplayedLabels]:
    """Yield the store's own labels, or those of a file that is imported into a temporary store."""
    from rlhf_hitl.formats.importing import import_path
    from rlhf_hitl.store import Store

    if data is None:
        yield _ReplayedLabels(opened, split, label_model=label_model, include_judges=include_judges)
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = Store.open(f"sqlite:///{folder}/replay.db", create=True)
        try:
            report = import_path(temporary, data, format=format, split=Split.HELDOUT)
            # A path is this machine's; a hub id is whole as it is.
            source = Path(data).name if Path(data).exists() else data
            yield _ReplayedLabels(
                temporary, Split.HELDOUT, opened, report.format, report.identical_sides, source, label_model,
                include_judges,
            )  # fmt: skip
        finally:
            temporary.close()


def _refuse_another_evaluation(store: Store, folder: Path, model_folder: Path, labels: _ReplayedLabels) -> None:
    """Raise BadInput where the folder holds an evaluation of another model or on other labels than is asked for: it may
    be the baseline of a gate. One that cannot be read is no baseline."""
    from rlhf_hitl.reward.evaluation.storage import load_evaluation

    try:
        there = load_evaluation(folder)
    except (NotFound, BadInput):
        return
    fix = "choose another name, or replace it with --overwrite"
    if there.reward_model_id != read_model_id(model_folder):
        of = describe_model(store, there.reward_model_id)
        raise BadInput(f"--name {folder.name}", expected=f"a new name: this evaluation is of {of}", fix=fix)
    if there.data_hash != labels.hash_pairs(model_folder):
        on = f"other data ({there.labels_text})"
        raise BadInput(f"--name {folder.name}", expected=f"a new name: this evaluation is on {on}", fix=fix)


def _find_evaluation(store: Store, workspace: Path, against: str) -> Path | None:
    """Return the folder of an earlier evaluation; None if `against` names no evaluation, so that it must be a model."""
    from rlhf_hitl.reward.evaluation.storage import SUMMARY_FILE, list_evaluation_folders
    from rlhf_hitl.store.reward_models import find_evaluation_name, list_reward_models

    if (Path(against) / SUMMARY_FILE).is_file():
        return Path(against)
    names = [folder.name for folder in list_evaluation_folders(workspace)]
    found = find_evaluation_name(against, names, list_reward_models(store))
    return None if found is None else workspace / "evaluations" / found


def _name_rival(
    against: str, earlier: Path | None, rival: RewardModel | None, models: Sequence[RewardModelRecord]
) -> str:
    """Return what people call the other side of a comparison; `against` itself for what the store does not know."""
    from rlhf_hitl.store.reward_models import display_evaluation_name, display_name_of_id

    if earlier is not None:
        return display_evaluation_name(earlier.resolve().name, models, with_id=True)
    if rival is not None and any(model.id == rival.id for model in models):
        return display_name_of_id(rival.id, models)
    return against


def _describe_origin(evaluation: Evaluation) -> str:
    """Return how many of the labels with a preference are simulated, for a title; empty if none."""
    origin = evaluation.measured_on
    return f" ({origin})" if origin is not None and origin.has_simulated else ""


def _make_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    shares = {
        "reward model": evaluation.accuracy,
        **{f"floor: {name}": floor for name, floor in evaluation.floors.items()},
        "ceiling: the raters' noise": evaluation.noise_ceiling,
        "with ties, three-way": evaluation.three_way and evaluation.three_way.accuracy,
        "best of K": evaluation.k_wise and evaluation.k_wise.best,
        "the model chose the longer answer": evaluation.length and evaluation.length.model,
        "calibration error, beyond chance": evaluation.calibration,
    }
    rows = [(name, share.text, share.bounds if share.n else "") for name, share in shares.items() if share]
    if (k := evaluation.k_wise) and (tau := k.kendall):
        rows.append(("Kendall's tau-b", f"{tau.value:.3f}", f"{tau.low:.3f} to {tau.high:.3f}"))
    for name, score, note in evaluation.score_rows:
        rows.append((f"score: {name}" + (f" ({note})" if note else ""), score, ""))
    return rows


def _make_notes(evaluation: Evaluation, identical_sides: int, difference: AccuracyDifference | None) -> list[str]:
    left_out = [text for _, text in evaluation.left_out]
    if identical_sides:
        left_out.append(say_count(identical_sides, "row with two identical answers", "rows with two identical answers"))
    lines = [note for note in (evaluation.learnt_note, evaluation.caveat) if note]
    lines.append(f"Left out: {', '.join(left_out)}. Intervals treat the pairs of one prompt as one cluster.")
    if weak := sorted(
        (share.value, f"{kind}={value} {share.text} ({share.n})")
        for kind, values in evaluation.slices.items()
        for value, share in values.items()
        if kind not in ("confidence", "longer") and share.high < evaluation.accuracy.value
    ):
        lines.append("Slices with a lower accuracy than all labels: " + ", ".join(text for _, text in weak[:5]))
    if (p := evaluation.position) and p.pairs:
        pairs = say_count(p.pairs, "pair")
        lines.append(f"Swapping the two sides changes its margin by at most {p.asymmetry:.2g}, on {pairs}.")
    if p and p.raters:
        votes = say_count(p.raters.n, "vote")
        line = f"Raters chose what was shown first in {p.raters.text} of {votes} ({p.raters.bounds})"
        if p.first and p.second:
            line += f"; the model agrees with {p.first.text} of those and with {p.second.text} of the others"
        lines.append(f"{line}.")
    if d := difference:
        lines.append(
            f"Against {d.against}: {d}; only this one is right on {d.ours}, only the other on {d.theirs}; "
            f"McNemar p = {d.p_value:.3g}"
        )
    return lines


def _name_from_path(path: str) -> str:
    """Return the name of a file or hub id as part of a folder's name: `votes` for `mt_bench/votes.jsonl.gz`."""
    last = path.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]", "-", re.sub(r"\.(jsonl?|csv|parquet)(\.gz)?$", "", last))[:80].lstrip(".-") or "data"
