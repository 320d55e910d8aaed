"""Command `audit`: the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, make_table

if TYPE_CHECKING:
    from rlhf_hitl.store.audit import AuditEntry


@command("audit")
def show_audit_command(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Show this many entries.")] = 50,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Show who did what, newest first."""
    from rlhf_hitl.store import Store, audit, people

    opened = Store.open(store)
    names = {r.id: r.name for r in people.list_raters(opened)}
    entries = audit.list_entries(opened, limit=limit, newest_first=True)
    rows = [vars(e) | {"at": e.at.isoformat()} for e in entries]
    cells = [(f"{e.at:%Y-%m-%d %H:%M:%S}", names.get(e.actor, e.actor), e.action, _name(e, names)) for e in entries]
    return Result({"entries": rows}, make_table("Audit log", cells, ("at", "who", "what", "of")))


def _name(entry: AuditEntry, names: dict[str, str]) -> str:
    """Return what an entry is about for people: a rater by their name, and beside something else who it concerns."""
    subject = names.get(entry.subject, entry.subject)
    concerned = entry.details.get("rater") or entry.details.get("of")
    return f"{subject} ({names.get(concerned, concerned)})" if isinstance(concerned, str) else subject
