"""The progress of TRL's trainers: a bar on stderr (stdout belongs to `--json`), and a plot of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback


class SilentProgressBar(ProgressCallback):
    """transformers' progress bar without its log lines, which go to stdout."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        pass


def keep_stdout_free(trainer: Trainer) -> None:
    """Replace the callbacks that print to stdout by a progress bar on the main process (none with `disable_tqdm`)."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero() and not trainer.args.disable_tqdm:
        trainer.add_callback(SilentProgressBar())


def plot_run(history: Sequence[dict[str, Any]], path: Path) -> bool:
    """Plot a run's loss and accuracy over its steps, of training and of evaluation, from the Trainer's log history.

    Returns whether there was anything to plot: a run shorter than `logging_steps` has logged nothing.
    """
    from matplotlib.figure import Figure

    def curve(name: str) -> list[tuple[float, float]]:
        return [(row["step"], row[name]) for row in history if name in row]

    if not (curve("loss") or curve("eval_loss")):
        return False
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy")):
        for key, label, style in ((name, "training", "-"), (f"eval_{name}", "calibration labels", "o--")):
            if points := curve(key):
                axes.plot(*zip(*points), style, label=label, markersize=4)
        axes.set(xlabel="step", ylabel=name)
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend()
    figure.savefig(path)
    return True
