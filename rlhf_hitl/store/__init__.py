"""The only code that knows SQL. `Store` opens it; `queue`, `history`, `catalog`, `people`, `ledger` are what one does
with it."""

from rlhf_hitl.store.db import Store, StoreFailure

__all__ = ["Store", "StoreFailure"]
