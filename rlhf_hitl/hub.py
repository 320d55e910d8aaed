"""Upload a folder to the Hugging Face hub. The token comes from HF_TOKEN and is neither shown nor kept."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from rlhf_hitl.errors import BadInput, RlhfHitlError

RepoType = Literal["dataset", "model"]
UPLOADS = 5  # files at once
#: What tells an export, and the files that one may have: other files of a repository are somebody's own.
MANIFEST_FILE = "manifest.json"
_SPLITS, _TABLES = "(train|calibration|heldout)", "(pairs|rankings|judgments|demonstrations|ratings)"
_EXPORTED = re.compile(
    rf"({_TABLES}/)?{_SPLITS}\.(parquet|jsonl)|tasks\.json|labelling_config\.xml"
    r"|\d+_answers/(records\.json|\.argilla/(settings|users)\.json)"
)


class HubFailure(RlhfHitlError):
    """The hub did not take what was sent."""


def check_repo(name: str) -> str:
    """Return a name on the hub. Raises BadInput for what cannot be one."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as e:
        raise _make_name_error(name) from e
    if not re.fullmatch(r"[^/]+/[^/]+", name):
        raise _make_name_error(name)
    return name


def _make_name_error(name: str) -> BadInput:
    return BadInput(f"{name!r}", expected="a name on the hub, OWNER/NAME", fix="such as acme/preferences")


def require_token() -> str:
    """Return the token for the hub. Raises BadInput where HF_TOKEN is not set."""
    if token := os.environ.get("HF_TOKEN", "").strip():
        return token
    raise BadInput(
        "HF_TOKEN", expected="a token of the hub that may write", fix="set the variable: the hub's settings make tokens"
    )


def push_folder(
    folder: Path,
    repo: str,
    *,
    repo_type: RepoType,
    message: str,
    public: bool = False,
    revision: str | None = None,
    leave_out: tuple[str, ...] = (),
) -> str:
    """Upload a folder in one commit and return its address. A repository that is not there is made.

    What an earlier export left there and this one does not have is deleted in the same commit; other files stay.

    Args:
        public: everybody may see it: make a new repository public, or send it to one that is public already.
        revision: a branch, made where it is missing; None for the main one.
        leave_out: patterns of files that are not sent.

    Raises:
        BadInput: no such name, or no token.
        HubFailure: the hub cannot be reached or refuses, or the repository is public and `public` was not given; one
            line says why.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars, filter_repo_objects

    check_repo(repo)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=require_token())
    disable_progress_bars()
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    sent = list(filter_repo_objects(names, ignore_patterns=list(leave_out)))
    operations: list[Any] = [CommitOperationAdd(name, folder / name) for name in sent]
    step = f"make {repo}"
    unreachable: Any = (OfflineModeIsEnabled, HfHubHTTPError.__bases__[0], OSError)  # one is of the HTTP client in use
    try:
        api.create_repo(repo, repo_type=repo_type, private=not public, exist_ok=True)
        step = f"ask whether {repo} is public"
        if not api.repo_info(repo, repo_type=repo_type).private and not public:
            raise HubFailure(
                f"{repo} on the hub is public: expected a private repository. Fix: make it private on the hub, name "
                "another one, or give --public"
            )
        if revision is not None:
            step = f"make the branch {revision} of {repo}"
            api.create_branch(repo, branch=revision, repo_type=repo_type, exist_ok=True)
        step = f"list the files of {repo}"
        there = api.list_repo_files(repo, repo_type=repo_type, revision=revision)
        operations += [CommitOperationDelete(name) for name in list_left_files(there, sent)]
        step = f"send files to {repo}"
        # Not `upload_folder`, which may make several commits: whoever reads meanwhile would get a part.
        commit = api.create_commit(
            repo, operations, commit_message=message, repo_type=repo_type, revision=revision, num_threads=UPLOADS
        )
    except HfHubHTTPError as e:
        raise _make_failure(step, e.response.status_code, e.server_message) from e
    except unreachable as e:
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        raise HubFailure(f"the hub ({step}): expected that it can be reached. Fix: check the network ({reason})") from e
    return commit.commit_url


def list_left_files(there: Iterable[str], sent: Iterable[str]) -> list[str]:
    """Return the files of an earlier export that a new one has no more; [] where nothing says that one was there."""
    there, sent = set(there), set(sent)
    if not {MANIFEST_FILE} <= there & sent:
        return []
    return sorted(name for name in there - sent if _EXPORTED.fullmatch(name))


_MEANINGS = {
    401: ("a token that the hub knows", "set HF_TOKEN to a token that is in force"),
    403: ("a token that may write there", "give HF_TOKEN the right to write to this owner, or name another owner"),
    404: ("a repository or branch that is there", "check OWNER/NAME, and whether HF_TOKEN may see it"),
    409: ("nobody else to change it at the same time", "give the same command again"),
    412: ("nobody else to change it at the same time", "give the same command again"),
    429: ("fewer calls in so short a time", "wait some minutes and give the same command again"),
}


def _make_failure(step: str, status: int, message: str | None) -> HubFailure:
    expected, fix = _MEANINGS.get(status, ("that the hub takes it", "give the same command again later"))
    said = " ".join((message or "").split())[:200]
    reason = f" ({said})" if said else ""
    return HubFailure(f"the hub answered {status} ({step}): expected {expected}. Fix: {fix}{reason}")
