"""The store: the only code that knows SQL, on SQLite and PostgreSQL.

Start with `db` (`Store`: open, read, write) and `tables` (what every table and column means). Then, by subject:

- work: `comparisons` (prompts, completions, comparisons and their places), `assignment` (what a rater gets next),
  `queue` (leases and submits), `judgments`, `views` (what pages show of them)
- what models add: `reward_models`, `scores`, `routings`, `accepted` (what needs no rater), `audits` (what of that
  raters judge all the same), `automation` (whether models may accept), `loop_steps`
- people: `people`, `passwords`, `sign_in`, `tokens`, `invitations`, `projects`, `guidelines`, `tutorial`
- finding: `catalog` (comparisons by words and facets), `catalog_index` (makes it), `catalog_history` (one whole),
  `slices` (filters with a name)
- operation: `audit`, `webhooks` (subscriptions, outbox, sender), `retention` (what is deleted after a while)
- bulk reads and writes: `export_query` (judged comparisons for exports), `table_copy` (whole tables for archives)

`migrations/` holds the Alembic migrations; a released one is never edited.
"""

from rlhf_hitl.store.db import Store, StoreFailure

__all__ = ["Store", "StoreFailure"]
