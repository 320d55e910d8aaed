"""The extras of the package: what is installed only where somebody asked for it, and what to say where nobody did."""

from __future__ import annotations

from importlib.util import find_spec

from rlhf_hitl.errors import RlhfHitlError

#: Extra → the modules that its distributions bring and the code imports. `pyproject.toml` names the distributions.
EXTRAS = {
    "serve": (
        "a11y_pygments", "anyio", "fastapi", "gradio", "httptools", "markdown_it", "math_core", "mdit_py_plugins",
        "prometheus_client", "pygments", "rapidfuzz", "starlette", "uvicorn",
    ),
    "train": ("accelerate", "peft", "sklearn", "threadpoolctl", "torch", "transformers", "trl"),
    "judge": ("openai",),
    "gguf": ("gguf", "torch", "transformers"),
    "vllm": ("vllm",),
}  # fmt: skip


class MissingExtra(RlhfHitlError):
    """What was asked for needs an extra that is not installed.

    Args:
        module: the one that is missing.
    """

    def __init__(self, what: str, extra: str, module: str):
        self.what, self.extra = what, extra
        super().__init__(
            f"{what}: expected the extra {extra!r}, which is not installed ({module} is missing). "
            f"Fix: pip install 'rlhf_hitl[{extra}]'"
        )


def require_extra(extra: str, what: str) -> None:
    """Raise MissingExtra where a module of an extra is not installed. Nothing is imported.

    Args:
        what: needs it, such as a command.
    """
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise MissingExtra(what, extra, module)


def find_extra(module: str | None) -> str | None:
    """Return the extra that brings a module; None where it is of no extra."""
    top = (module or "").partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), None)
