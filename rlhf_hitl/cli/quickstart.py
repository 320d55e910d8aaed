"""Command `quickstart`: make a store with bundled data and accounts, and serve it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command
from rlhf_hitl.cli.passwords import generate_password
from rlhf_hitl.cli.serve import Host, Port, make_accounts_panel, serve_one_process
from rlhf_hitl.config import load_settings
from rlhf_hitl.extras import require_extra
from rlhf_hitl.files import make_private_folder, write_text_atomically
from rlhf_hitl.types import DEFAULT_PROJECT

if TYPE_CHECKING:
    from rlhf_hitl.store import Store


@command("quickstart")
def quickstart_command(
    host: Host = "127.0.0.1",
    port: Port = 7860,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the store once it is made.")] = True,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Make a store with the bundled prompts, completions and tutorial and two accounts, and serve it.

    It is safe to run this again.
    """
    from rlhf_hitl.formats.guidance import read_bundled_tutorial
    from rlhf_hitl.formats.importing import import_bundled
    from rlhf_hitl.store import Store, tutorial
    from rlhf_hitl.store.comparisons import count_rows

    if serve:
        require_extra("serve", "`rlhf-hitl quickstart` without --no-serve")
    settings = load_settings()
    opened = Store.open(store, create=True)
    import_bundled(opened)
    if not tutorial.list_examples(opened):
        tutorial.replace_tutorial(opened, DEFAULT_PROJECT, read_bundled_tutorial())
    accounts = _ensure_accounts(opened, settings.workspace)
    if serve:
        return serve_one_process(opened, host, port, accounts, json)
    data = {"store": opened.safe_url, "accounts": accounts, "counts": count_rows(opened)}
    return Result(data, make_accounts_panel(["Ready. Start it with `rlhf-hitl serve`."], accounts))


def _ensure_accounts(store: Store, workspace: Path) -> dict[str, str]:
    """Make the two first accounts where they are missing. Returns name → password.

    The password of an account is read from the workspace; if it was changed since, a hint takes its place.
    """
    from rlhf_hitl.store import people
    from rlhf_hitl.store.sign_in import verify_password
    from rlhf_hitl.types import Role

    make_private_folder(workspace)
    sign_in_file = workspace / "sign-in.txt"
    saved = dict(line.split(": ", 1) for line in _read_lines(sign_in_file) if ": " in line)
    names = {r.name for r in people.list_raters(store)}
    accounts = {}
    for name, role in (("rater", Role.RATER), ("lead", Role.LEAD)):
        accounts[name] = saved.get(name) or generate_password()
        if name not in names:
            # The file is written first: an account whose password nobody knows is of no use.
            write_text_atomically(sign_in_file, "".join(f"{k}: {v}\n" for k, v in (saved | accounts).items()))
            people.add_rater(store, name, role, accounts[name])
        elif verify_password(store, name, accounts[name]) is None:
            accounts[name] = f"changed since; a new one: rlhf-hitl raters password {name}"
    return accounts


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
