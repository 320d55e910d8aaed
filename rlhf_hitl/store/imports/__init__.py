"""Imports: many records go into the store without a rater noticing, all of them or none.

1. *Staging* (`staging`). The importer checks every record and keeps it, packed, in `import_batches`. Nothing of it
   counts. An importer that fails or dies here leaves nothing but rows that are deleted later.
2. *The commit* is one row: `imports.committed_at`. From here on the import happens, whoever carries it out.
3. *Applying* (`finishing`, `applying`). Short transactions move records from the staged batches to the tables. Each
   also moves `imports.applied` and the counts of the report, so a record is applied once. If the importer dies, the
   next command that imports or exports, or a server within a minute, goes on where it stopped.

`pacing` decides how long a transaction may be: some milliseconds while others write. `records` is what is staged.
"""

from rlhf_hitl.store.imports.finishing import (
    FinishedImport,
    finish_import,
    finish_waiting_imports,
    has_waiting_imports,
    open_own_store,
)
from rlhf_hitl.store.imports.housekeeper import Housekeeper
from rlhf_hitl.store.imports.records import StagedRating, StagedRecord, StagedVote
from rlhf_hitl.store.imports.staging import ImportStaging, delete_old_imports

__all__ = [
    "FinishedImport",
    "Housekeeper",
    "ImportStaging",
    "StagedRating",
    "StagedRecord",
    "StagedVote",
    "delete_old_imports",
    "finish_import",
    "finish_waiting_imports",
    "has_waiting_imports",
    "open_own_store",
]
