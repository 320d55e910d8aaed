"""The scope `manage`: projects, raters, leases, invitations and, for admins, webhooks and the audit log."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from rlhf_hitl.api.auth import Caller, check_may_manage
from rlhf_hitl.api.bodies import manage as bodies
from rlhf_hitl.api.bodies.quality import QualificationBody
from rlhf_hitl.api.operations.shared import Cursor, Limit, PathId
from rlhf_hitl.api.scoped_routes import ScopedRoutes
from rlhf_hitl.store import Store, audit, invitations, people, projects, queue, webhooks
from rlhf_hitl.store.catalog import CatalogHit, search_catalog
from rlhf_hitl.store.catalog_index import CatalogIndexer
from rlhf_hitl.types import ComparisonFilter, Role

ADMINS = frozenset({Role.ADMIN})
#: How long a search waits for the catalog to see what has changed since.
CATCH_UP_SECONDS = 0.05


def add_operations(routes: ScopedRoutes, store: Store) -> None:
    """Register the operations of the scope `manage`."""
    indexer = CatalogIndexer(store)

    @routes("GET", "/projects", response_model=list[bodies.ProjectOut])
    def list_projects(caller: Caller) -> Any:
        """List all projects."""
        return [project.to_plain() for project in projects.list_projects(store)]

    @routes("POST", "/projects", status_code=201, response_model=bodies.ProjectOut)
    def add_project(caller: Caller, body: bodies.ProjectBody) -> Any:
        """Add a project."""
        given: dict[str, Any] = body.model_dump()
        given["overlap_rule"] = None if body.overlap_rule is None else body.overlap_rule.to_rule()
        return projects.add_project(store, **given, by=caller.actor).to_plain()

    @routes("PATCH", "/projects/{project_id}", response_model=bodies.ProjectOut, error_statuses=(404,))
    def change_project(caller: Caller, project_id: PathId, body: bodies.ProjectChange) -> Any:
        """Change a project. Properties that are left out stay as they are. A new overlap rule holds for the judgments
        that come."""
        new: dict[str, Any] = body.model_dump()
        if isinstance(body.overlap_rule, bodies.OverlapRuleBody):
            new["overlap_rule"] = body.overlap_rule.to_rule()
        if isinstance(body.qualification, QualificationBody):
            new["qualification"] = body.qualification.to_rule()
        return projects.change_project(store, project_id, **new, by=caller.actor).to_plain()

    @routes("PUT", "/projects/{project_id}/members/{rater_id}", status_code=204, error_statuses=(404,))
    def admit(caller: Caller, project_id: PathId, rater_id: PathId) -> Response:
        """Make a rater a member of a project, so that they may work in it though it is not open to all."""
        projects.add_member(store, project_id, people.get_rater(store, rater_id).name, by=caller.actor)
        return Response(status_code=204)

    @routes("DELETE", "/projects/{project_id}/members/{rater_id}", status_code=204, error_statuses=(404,))
    def dismiss(caller: Caller, project_id: PathId, rater_id: PathId) -> Response:
        """Remove a rater from the members of a project."""
        projects.remove_member(store, project_id, people.get_rater(store, rater_id).name, by=caller.actor)
        return Response(status_code=204)

    @routes("GET", "/raters", response_model=list[bodies.RaterOut])
    def list_raters(caller: Caller) -> Any:
        """List all raters, with their languages and quotas."""
        return people.list_raters(store)

    @routes("PATCH", "/raters/{rater_id}", response_model=bodies.RaterOut, error_statuses=(404,))
    def change_rater(caller: Caller, rater_id: PathId, body: bodies.RaterChange) -> Any:
        """Pause or disable a rater, or set their languages and quota. Only admins may change leads and admins."""
        rater = people.get_rater(store, rater_id)
        check_may_manage(caller.rater, rater.role)
        return people.change_rater(store, rater.name, **body.model_dump(), by=caller.actor)

    @routes("POST", "/leases/{lease_id}/expire", status_code=204, error_statuses=(404,))
    def expire(caller: Caller, lease_id: PathId) -> Response:
        """End a rater's lease, so that the comparison goes to others."""
        queue.expire(store, lease_id, by=caller.actor)
        return Response(status_code=204)

    @routes("POST", "/invites", status_code=201, response_model=bodies.InviteOut, error_statuses=(404,))
    def invite(caller: Caller, body: bodies.InviteBody) -> Any:
        """Make a link by which one person creates an account. Leads may invite raters, admins any role."""
        check_may_manage(caller.rater, body.role)
        secret = invitations.add_invitation(store, body.role, project=body.project, days=body.days, by=caller.actor)
        return {"path": f"/invite/{secret}"}

    @routes("POST", "/catalog/search", response_model=bodies.CatalogPage)
    def search_comparisons(caller: Caller, body: bodies.CatalogSearch) -> Any:
        """Find comparisons by words, tags, policies, votes and more, the newest first."""
        indexer.update(seconds=CATCH_UP_SECONDS, gentle=True)
        conditions = body.model_dump(exclude={"after", "limit"}, exclude_defaults=True)
        page = search_catalog(store, ComparisonFilter.from_plain(conditions), after=body.after, limit=body.limit)
        items = [_describe_hit(hit) for hit in page.hits]
        return {"items": items, "total": page.total, "total_is_exact": page.is_exact, "next": page.next}

    @routes("GET", "/webhooks", response_model=list[bodies.WebhookOut], roles=ADMINS)
    def list_webhooks(caller: Caller) -> Any:
        """List all webhooks, without their secrets."""
        return [bodies.webhook_to_json(webhook) for webhook in webhooks.list_webhooks(store)]

    @routes("POST", "/webhooks", status_code=201, response_model=bodies.WebhookOut, roles=ADMINS)
    def add_webhook(caller: Caller, body: bodies.WebhookBody) -> Any:
        """Send events to an address from now on, signed as https://www.standardwebhooks.com says."""
        webhook = webhooks.add_webhook(store, body.url, body.events, by=caller.actor)
        return bodies.webhook_to_json(webhook) | {"secret": webhook.secret}

    @routes("DELETE", "/webhooks/{webhook_id}", status_code=204, error_statuses=(404,), roles=ADMINS)
    def end_webhook(caller: Caller, webhook_id: PathId) -> Response:
        """End a webhook: nothing more is sent to it."""
        webhooks.end_webhook(store, webhook_id, by=caller.actor)
        return Response(status_code=204)

    @routes("GET", "/audit", response_model=bodies.AuditPage, roles=ADMINS)
    def list_audit(caller: Caller, after: Cursor = 0, limit: Limit = 100) -> Any:
        """List who did what, oldest first."""
        entries = audit.list_entries(store, after=after, limit=limit)
        return {"items": entries, "next": entries[-1].seq if len(entries) == limit else None}


def _describe_hit(hit: CatalogHit) -> dict[str, Any]:
    """Return the fields of `CatalogHitOut`."""
    terms: dict[str, list[str]] = {}
    for facet, value in hit.entry.terms:
        terms.setdefault(facet, []).append(value)
    return {
        "comparison_id": hit.comparison.id,
        "prompt_id": hit.comparison.prompt.id,
        "completion_ids": [c.id for c in hit.comparison.completions],
        "policies": [c.policy for c in hit.comparison.completions],
        "project": hit.comparison.project,
        "votes": hit.entry.votes,
        "entropy": hit.entry.entropy,
        "terms": terms,
    }
