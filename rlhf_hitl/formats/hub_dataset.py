"""Load a dataset of the Hugging Face hub: from there, or what is kept of it here where the hub cannot be reached."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ANSWER_S = 3.0  # for so long the hub may take to answer at all
_LOGGERS = ("huggingface_hub", "datasets", "fsspec", "httpx")


def load_hub_dataset(hub_id: str, config: str | None) -> Any:
    """Return what `datasets` loads. Where no hub answers, only what is kept here is looked for: it would try
    for half a minute and warn of each try.

    Raises:
        ConnectionError: no hub answers, and nothing of the set is kept here.
        Exception: `load_dataset` failed, with an error of any kind.
    """
    import datasets

    with _silence_loggers():
        failure = _find_failure(hub_id)
        if failure is None:
            return datasets.load_dataset(hub_id, config)
        try:
            with _go_offline():
                return datasets.load_dataset(hub_id, config)
        except Exception as e:
            raise ConnectionError(f"the hub does not answer: {failure}") from e


def _find_failure(hub_id: str) -> str | None:
    """Return why the hub does not answer; None where it does, whatever it says."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    unreachable: Any = (HfHubHTTPError.__bases__[0], OSError)  # the first is of the HTTP client in use
    try:
        HfApi().dataset_info(hub_id, timeout=ANSWER_S)
    except (HfHubHTTPError, OfflineModeIsEnabled):  # `load_dataset` knows what these mean
        return None
    except unreachable as e:
        return " ".join(str(e).split())[:200] or type(e).__name__
    return None


@contextmanager
def _silence_loggers() -> Iterator[None]:
    """Leave out warnings of libraries: what fails is told in one line of our own."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextmanager
def _go_offline() -> Iterator[None]:
    """Do as with HF_HUB_OFFLINE=1, which both libraries read when they are imported."""
    import datasets.config
    import huggingface_hub.constants

    modules: list[Any] = [datasets.config, huggingface_hub.constants]
    before = [(module, module.HF_HUB_OFFLINE) for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value
