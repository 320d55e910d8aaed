"""Commands `tokens …`: API tokens and invitations."""

from __future__ import annotations

from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.types import Scope

token_group = typer.Typer(help="Manage API tokens and invitations.", no_args_is_help=True)
app.add_typer(token_group, name="tokens")


@command("add", token_group)
def add_token_command(
    rater: Annotated[str, typer.Argument(help="The name of the person the token acts for.")],
    scope: Annotated[list[Scope], typer.Option(help="Let the token use this part of the API; may be repeated.")],
    name: Annotated[str, typer.Option(help="Note what the token is for.")] = "",
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="Keep the token valid for this many days.")] = 90,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Make an API token, which is printed once. It can do no more than the role of the person it acts for."""
    from rlhf_hitl.store import Store, people
    from rlhf_hitl.store import tokens as stored_tokens

    opened = Store.open(store)
    secret = stored_tokens.add_api_token(opened, people.get_rater_by_name(opened, rater).id, name, scope, days=days)
    data = {"token": secret, "rater": rater, "scopes": sorted(s.value for s in scope), "days": days}
    return Result(data, f"Token for {rater}, shown this once: {secret}")


@command("list", token_group)
def list_tokens_command(*, store: StoreUrl, json: AsJson = False) -> Result:
    """List tokens and invitations, without their secrets."""
    from rlhf_hitl.store import Store, people
    from rlhf_hitl.store import tokens as stored_tokens
    from rlhf_hitl.types import utc_now

    opened, now = Store.open(store), utc_now()
    names = {r.id: r.name for r in people.list_raters(opened)}
    rows = [
        {
            "id": t.id,
            "kind": t.kind.value,
            "rater": names.get(t.rater_id or "", ""),
            "name": t.name,
            "scopes": list(t.scopes),
            "role": t.role,
            "expires_at": None if t.expires_at is None else t.expires_at.isoformat(),
            "holds": t.is_valid_at(now),
        }
        for t in stored_tokens.list_tokens(opened)
    ]
    cells = [
        (r["id"], r["kind"], r["rater"], " ".join(r["scopes"]) or r["role"], "valid" if r["holds"] else "ended")
        for r in rows
    ]
    text = make_table("Tokens", cells, ("id", "kind", "rater", "for", ""))
    return Result(
        {"tokens": rows}, text if rows else "None yet. Make one with `rlhf-hitl tokens add RATER --scope task`."
    )


@command("end", token_group, formerly="revoke")
def end_token_command(
    token: Annotated[str, typer.Argument(help="The id that `tokens list` shows.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """End a token or an invitation at once, for good."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import tokens as stored_tokens

    stored_tokens.revoke_token(Store.open(store), token)
    return Result({"id": token, "holds": False}, f"{token} can be used no longer.")
