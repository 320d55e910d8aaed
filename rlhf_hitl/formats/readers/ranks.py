"""Ranks of several completions of one prompt: what is ranked, and as which groups."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_hitl.formats.record import ImportCompletion, SourceRow
from rlhf_hitl.types import Messages

#: A completion with its rank, of which the lowest is best; None where it has none.
Ranked = tuple[ImportCompletion, float | None]


def drop_repeats(row: SourceRow, ranked: Sequence[Ranked]) -> list[Ranked]:
    """Return the completions without those that say what an earlier one says; they are counted.

    Where all say the same, all are returned: such a comparison is dropped as a whole, and counted, by the import.
    """
    kept: dict[Messages, Ranked] = {}
    for completion, rank in ranked:
        kept.setdefault(completion.messages, (completion, rank))
    if len(kept) == 1:
        return list(ranked)
    if len(kept) < len(ranked):
        row.noted["completions that repeat another of their prompt"] += len(ranked) - len(kept)
    return list(kept.values())


def group_by_rank(ranks: Sequence[float | None]) -> tuple[tuple[int, ...], ...]:
    """Return groups of positions, best first; equal ranks are a group, and what has no rank is in none.

    Returns nothing where fewer than two have a rank: that is no ranking.
    """
    known = [rank for rank in ranks if rank is not None]
    if len(known) < 2:
        return ()
    return tuple(tuple(i for i, rank in enumerate(ranks) if rank == value) for value in sorted(set(known)))
