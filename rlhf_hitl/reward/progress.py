"""What every TRL trainer here shows while it runs: a bar on stderr. stdout belongs to `--json`."""

from __future__ import annotations

from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback


class Progress(ProgressCallback):
    """transformers' bar without its log lines: those go to stdout."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        pass


def keep_stdout_free(trainer: Trainer) -> None:
    """Replace the callbacks that print to stdout by a bar on the main process (none with `disable_tqdm`)."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero() and not trainer.args.disable_tqdm:
        trainer.add_callback(Progress())
