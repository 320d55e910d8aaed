"""Operations of the scope `manage` about policies: which is better, and how each came about."""

from __future__ import annotations

from typing import Any

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.api.bodies import policies as bodies
from rlhf_hitl.api.scoped_routes import ScopedRoutes
from rlhf_hitl.labels.policy_report import describe_lineage, list_roots, make_policy_report
from rlhf_hitl.labels.policy_votes import read_policy_votes
from rlhf_hitl.store import Store
from rlhf_hitl.store.projects import require_project


def add_operations(routes: ScopedRoutes, store: Store) -> None:
    """Register the operations."""

    @routes("GET", "/policies", response_model=list[bodies.LineageOut])
    def list_policies(caller: Caller) -> Any:
        """List the policies that are recorded, each below the one it was made of, with what gates decided."""
        return describe_lineage(store)

    @routes("POST", "/policies/ranking", response_model=bodies.RankingOut, error_statuses=(404,))
    def rank_policies(caller: Caller, body: bodies.RankingBody) -> Any:
        """Rank the policies that raters have met, blind. With style control the texts of all answers are read."""
        if body.project is not None:
            with store.read() as conn:
                require_project(conn, body.project)
        votes = read_policy_votes(store, body.votes, project=body.project, with_style=body.style_control)
        report = make_policy_report(
            votes,
            list_roots(store),
            base=body.base,
            language=body.language,
            tags=body.tags,
            style_control=body.style_control,
        )
        return report.as_dict() | {"notes": report.say_notes()}
