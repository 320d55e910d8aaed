"""Word what is said to people: a number agrees with what it counts."""

from __future__ import annotations


def say_count(n: int, one: str, several: str | None = None) -> str:
    """Return a number with what it counts: `1 tie`, `0 ties`, `2,300 ties`.

    Args:
        one: what follows the number 1.
        several: what follows any other number; by default `one` with an s.
    """
    return f"{n:,} {one if n == 1 else several or f'{one}s'}"
