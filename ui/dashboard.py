"""What the pages of leads and evaluators share: how they are mounted, what they accept, how they report problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.api.page_calls import PageCall
from rlhf_hitl.errors import RlhfHitlError
from rlhf_hitl.store import Store, StoreFailure, projects
from rlhf_hitl.ui.navigation import get_page_title, render_navigation
from rlhf_hitl.ui.pages import load_templates, mount_page, read_asset
from rlhf_hitl.validation import describe_refusal

#: The scripts that these pages share with each other, and with the rating page.
SHARED_SCRIPTS = (
    "scrollable",
    "navigation",
    "rate/storage",
    "rate/i18n",
    "raw_view",
    "pictures",
    "redraw",
    "renewal",
    "dashboard",
)


class PageMessage(BaseModel):
    """The base of what a page sends: unknown keys are refused, and no value is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


def mount_dashboard(
    app: FastAPI,
    path: str,
    guard: Middleware,
    *,
    name: str,
    calls: Mapping[str, PageCall],
    scripts: Sequence[str] = (),
    library: tuple[str, str] = ("", ""),
) -> None:
    """Mount the page whose files are in `assets/NAME/`.

    Args:
        name: the folder, the name of its HTML, CSS and JavaScript, and the function that starts the page.
        calls: as for `mount_page`. What they raise reaches the page as `{"problem": ...}`.
        scripts: further scripts, which `NAME.js` uses: of the folder, or of another page's as `PAGE/SCRIPT`.
        library: a script and styles from elsewhere in the package, such as those of the plots.
    """
    own = [script if "/" in script else f"{name}/{script}" for script in (*scripts, name)]
    parts = [*SHARED_SCRIPTS, *own]
    mount_page(
        app,
        path,
        title=get_page_title(name),
        html=load_templates().get_template(f"{name}/{name}.html").render(name=name, navigation=render_navigation(name)),
        css=library[1] + read_asset("dashboard.css") + read_asset(f"{name}/{name}.css"),
        script=library[0]
        + "\n"
        + "\n".join(read_asset(f"{part}.js") for part in parts)
        + f"\n{name}(element, server);",
        calls={call_name: _report_problems(call) for call_name, call in calls.items()},
        guard=guard,
    )


def list_projects(store: Store) -> list[dict[str, Any]]:
    """Return the projects that a page can be filtered by: their names, whether they are paused and open to all, and how
    many judgments a comparison gets where that depends on its votes."""
    return [
        {"id": p.id, "paused": p.paused, "open": p.open, "overlap_rule": p.overlap_rule and p.overlap_rule.to_plain()}
        for p in projects.list_projects(store)
    ]


def _report_problems(call: PageCall) -> PageCall:
    """Return `call` with its errors as answers: `{"problem": ...}` says in one line why the call was refused."""

    def answer(sent: Any, caller: Caller) -> dict[str, Any]:
        try:
            return call(sent, caller)
        except ValidationError as e:
            return {"problem": f"{describe_refusal(e)}. Fix: correct it, or reload the page"}
        except HTTPException as e:
            return {"problem": str(e.detail)}
        except StoreFailure:  # its text names the store's address
            return {"problem": "The store does not answer. Reload the page to see what is so."}
        except RlhfHitlError as e:
            return {"problem": str(e)}

    return answer
