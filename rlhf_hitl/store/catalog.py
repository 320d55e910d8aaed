"""Find comparisons by words and facets: page by page, counted, among a million within a blink.

Every search first asks the sample, one row in SAMPLE_EVERY. If few of it match, so few match in all that every one of
them is read, and counts are exact. Else counts are the sample's, times SAMPLE_EVERY, and called estimates, and the
sample tells where a page's rows stand: near the top, or so far down that reading all matches is quicker than walking
there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import Conflict
from rlhf_hitl.store.catalog_entries import CatalogEntry, load_entries
from rlhf_hitl.store.catalog_index import MARK, CatalogIndexer
from rlhf_hitl.store.catalog_tables import IN_SAMPLE, SAMPLE_EVERY, catalog, catalog_terms
from rlhf_hitl.store.catalog_words import parse_search
from rlhf_hitl.store.comparisons import load_comparisons
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import comparisons, completions, judgments
from rlhf_hitl.types import Comparison
from rlhf_hitl.types.catalog import FACETS, ComparisonFilter, find_ids

#: So many matches in the sample, and counts are estimated: at about five thousand. To read ten thousand takes too long.
ENOUGH_IN_SAMPLE = 50
#: No more rows are ever read to count exactly, though few of the sample match.
MOST_COUNTED = 10_000
#: Rows that PostgreSQL walks through from the top rather than reading all matches; words are slower to look at.
WALK, WALK_WITH_WORDS = 100_000, 5_000
#: Values of a facet that are returned, the commonest first; and of each tag.
MOST_VALUES, MOST_VALUES_OF_TAG, MOST_TAGS = 30, 12, 25
#: Terms that are looked up to count by them: of all facets but tags, and of tags. Where there are more, the commonest.
MOST_TERMS, MOST_TAG_TERMS = 20_000, 2_000
#: Numbers read at once by `find_comparison_ids`.
IDS_AT_ONCE = 5_000


@dataclass(frozen=True)
class CatalogHit:
    """A comparison that was found. `number` is its place: a newer comparison has a higher one."""

    number: int
    comparison: Comparison
    entry: CatalogEntry


@dataclass(frozen=True)
class CatalogPage:
    """Some of the comparisons that meet a filter, the newest first.

    Attributes:
        total: how many meet it.
        is_exact: whether `total` was counted; else it is an estimate.
        next: the number after which to go on; None where there are no more.
    """

    hits: tuple[CatalogHit, ...]
    total: int
    is_exact: bool
    next: int | None


@dataclass(frozen=True)
class FacetCounts:
    """Facet → value → how many comparisons have it and meet all other conditions of the filter.

    Counts of a facet are estimates where it is in `estimated`. Of many values only the commonest are there.
    """

    counts: Mapping[str, Mapping[str, int]]
    estimated: frozenset[str] = field(default_factory=frozenset)


def search_catalog(store: Store, wanted: ComparisonFilter, *, after: int | None = None, limit: int = 25) -> CatalogPage:
    """Return a page of the comparisons that meet a filter, the newest first.

    It finds what the catalog has seen (`CatalogIndexer.update`). The order is stable: what is added meanwhile comes
    before all that was there.

    Args:
        after: only comparisons with a lower number.
    """
    with _read(store) as conn:
        query = _Query.make(store, conn, wanted)
        found = query.count(conn, after, limit + 1)
        numbers = found.numbers if found.is_exact else query.find_page(conn, after, limit + 1, found.numbers)
        ids = _load_ids(conn, numbers[:limit])
        loaded = load_comparisons(conn, list(ids.values()))
        entries = {e.comparison_id: e for e in load_entries(store, conn, list(ids.values()), words=False)}
    hits = tuple(CatalogHit(n, loaded[ids[n]], entries[ids[n]]) for n in numbers[:limit] if n in ids)
    total = max(found.total, len(hits))
    return CatalogPage(hits, total, found.is_exact, numbers[limit - 1] if len(numbers) > limit else None)


def count_facets(store: Store, wanted: ComparisonFilter) -> FacetCounts:
    """Count the comparisons that meet a filter by every facet.

    A facet that is filtered by is counted as if it were not, so that its other values have their counts too.
    """
    counted: list[tuple[Sequence[str], Counter[int]]] = []
    estimated = set()
    with _read(store) as conn:
        query = _Query.make(store, conn, wanted)
        for facets in [tuple(f for f in FACETS if f not in wanted.facets), *((f,) for f in wanted.facets)]:
            of_terms, is_exact = query.without(facets).count_terms(conn)
            counted.append((facets, of_terms))
            if not is_exact:
                estimated |= set(facets)
        largest = reduce(Counter.__or__, (of_terms for _, of_terms in counted))
        known = _load_terms(conn, [id for id, _ in largest.most_common()])
    counts: dict[str, dict[str, int]] = {}
    for facets, of_terms in counted:
        counts |= _name_terms(of_terms, known, facets, wanted)
    return FacetCounts(counts, frozenset(estimated))


def find_comparison_ids(store: Store, wanted: ComparisonFilter, *, seconds: float | None = None) -> Iterator[str]:
    """Yield the ids of all comparisons that meet a filter, the newest first, once the catalog has seen every change.

    Args:
        seconds: the most to wait for that, for whoever answers a request; None for no limit.

    Raises:
        Conflict: the catalog has not seen every change in that time.
    """
    if not CatalogIndexer(store).update(seconds=seconds, gentle=seconds is not None):
        raise Conflict("The catalog has not seen all that was added yet. Fix: try again in a minute")
    after = None
    while True:
        with _read(store) as conn:
            query = _Query.make(store, conn, wanted)
            numbers = query.find_all(conn, after, IDS_AT_ONCE)
            ids = _load_ids(conn, numbers)
        yield from (ids[n] for n in numbers if n in ids)
        if len(numbers) < IDS_AT_ONCE:
            return
        after = numbers[-1]


@dataclass(frozen=True)
class _Found:
    """How many match, and the highest numbers: of all matches or, where `total` is an estimate, of the sample."""

    total: int
    is_exact: bool
    numbers: list[int]


@dataclass(frozen=True)
class _Query:
    """A filter as the database takes it.

    Attributes:
        index: what finds words: PostgreSQL, SQLite's FTS5, or nothing where SQLite has no FTS5: then each row is read.
        terms: of each facet that is filtered by, the numbers of the terms of which one is wanted. Where there are none,
            nothing can match: a value is filtered by that no comparison has.
        words: what is searched for, each with whether it is the beginning of a word.
        conditions: on the row.
    """

    index: Literal["postgres", "fts5", "plain"]
    terms: Mapping[str, tuple[int, ...]]
    words: tuple[tuple[str, bool], ...]
    conditions: tuple[sa.ColumnElement[bool], ...]

    @classmethod
    def make(cls, store: Store, conn: Connection, wanted: ComparisonFilter) -> _Query:
        terms: dict[str, tuple[int, ...]] = dict.fromkeys(wanted.facets, ())
        if terms:
            values = (value for values in wanted.facets.values() for value in values)
            query = sa.select(catalog_terms).where(catalog_terms.c.facet.in_(list(terms)))
            for term in conn.execute(query.where(store.among(catalog_terms.c.value, values))):
                if term.value in wanted.facets[term.facet]:
                    terms[term.facet] += (term.id,)
        c, conditions = catalog.c, []
        for name, column in (("votes", c.votes), ("entropy", c.entropy)):
            least, most = getattr(wanted, f"least_{name}"), getattr(wanted, f"most_{name}")
            conditions += [column >= least] if least is not None else []
            conditions += [column <= most] if most is not None else []
        ids, words = find_ids(wanted.words)
        for group in (wanted.ids, *((id,) for id in ids)):
            if group:
                conditions.append(store.among(c.comparison_id, _resolve_ids(store, conn, group)))
        return cls(_find_index(store, conn), terms, tuple(parse_search(words)), tuple(conditions))

    def without(self, facets: Sequence[str]) -> _Query:
        """Return the query without its conditions on some facets."""
        return replace(self, terms={facet: ids for facet, ids in self.terms.items() if facet not in facets})

    @property
    def is_empty(self) -> bool:
        return not all(self.terms.values())

    def count(self, conn: Connection, after: int | None, limit: int) -> _Found:
        """Return how many match, and of these the highest numbers: of all where they are few, else of the sample."""
        if self.is_empty:
            return _Found(0, True, [])
        in_sample = self._count(conn, self._select(catalog.c.number, in_sample=True), after, limit=2)
        if in_sample.total < ENOUGH_IN_SAMPLE:
            every = self._count(conn, self._select(catalog.c.number).limit(MOST_COUNTED + 1), after, limit)
            if every.total <= MOST_COUNTED:
                return every
        return replace(in_sample, total=in_sample.total * SAMPLE_EVERY, is_exact=False)

    def _count(self, conn: Connection, query: sa.Select, after: int | None, limit: int) -> _Found:
        found = query.cte("found").prefix_with("MATERIALIZED")
        top = sa.select(found.c.number).order_by(found.c.number.desc()).limit(limit)
        top = (top if after is None else top.where(found.c.number < after)).subquery()
        total = sa.select(sa.func.count().label("total")).select_from(found).subquery()
        rows = conn.execute(sa.select(total, top).select_from(total.outerjoin(top, sa.true()))).all()
        return _Found(rows[0].total, True, sorted((r.number for r in rows if r.number is not None), reverse=True))

    def count_terms(self, conn: Connection) -> tuple[Counter[int], bool]:
        """Return number of a term → how many of the matches have it, and whether that was counted, not estimated."""
        if self.is_empty:
            return Counter(), True
        n, in_sample = self._count_terms(conn, self._select(catalog.c.terms, in_sample=True))
        if n < ENOUGH_IN_SAMPLE:
            n, counts = self._count_terms(conn, self._select(catalog.c.terms).limit(MOST_COUNTED + 1))
            if n <= MOST_COUNTED:
                return counts, True
        return Counter({term: n * SAMPLE_EVERY for term, n in in_sample.items()}), False

    def _count_terms(self, conn: Connection, query: sa.Select) -> tuple[int, Counter[int]]:
        """Return how many comparisons a query finds, and how many of them have each term."""
        if self.index != "postgres":
            texts = conn.execute(query).scalars().all()
            return len(texts), Counter({int(id): n for id, n in Counter(" ".join(texts).split()).items()})
        # PostgreSQL counts: to send it all would take longer.
        found = query.cte("found").prefix_with("MATERIALIZED")
        each = sa.select(sa.func.unnest(found.c.terms).label("term")).subquery()
        by_term = sa.select(each.c.term, sa.func.count()).group_by(each.c.term)
        every = sa.select(sa.literal(0), sa.func.count()).select_from(found)  # no term has the number 0
        counts = Counter(dict(conn.execute(sa.union_all(every, by_term)).tuples().all()))
        return counts.pop(0), counts

    def find_page(self, conn: Connection, after: int | None, limit: int, sample: Sequence[int]) -> list[int]:
        """Return the highest numbers that match.

        Args:
            sample: the highest two numbers below `after` that match in the sample.
        """
        highest = conn.execute(sa.select(sa.func.max(catalog.c.number))).scalar_one() if after is None else after
        # Between the second match of the sample and the top there are some two hundred matches, seldom under thirty.
        expected = highest - sample[1] if len(sample) > 1 else highest
        if self.index != "postgres" or expected < (WALK_WITH_WORDS if self.words else WALK):
            return self.find_all(conn, after, limit)
        return self._sort_all(conn, after, limit)

    def find_all(self, conn: Connection, after: int | None, limit: int) -> list[int]:
        """Return the highest numbers that match, found in their order."""
        if self.is_empty:
            return []
        query = self._select(catalog.c.number, after=after)
        is_led_by_index = self.index == "fts5" and (self.terms or self.words)
        query = query.order_by(_ROWID.desc() if is_led_by_index else sa.literal_column("number").desc())
        return list(conn.execute(query.limit(limit)).scalars())

    def _sort_all(self, conn: Connection, after: int | None, limit: int) -> list[int]:
        """Return the same as `find_all`, by an index on terms or words, and sorted afterwards."""
        found = self._select(catalog.c.number, after=after).cte("found").prefix_with("MATERIALIZED")
        return list(conn.execute(sa.select(found.c.number).order_by(found.c.number.desc()).limit(limit)).scalars())

    def _select(self, column: sa.Column, *, in_sample: bool = False, after: int | None = None) -> sa.Select:
        """Return the query for the numbers or the terms of what matches."""
        query, number = sa.select(column).where(*self.conditions), catalog.c.number
        if in_sample and not (self.index == "fts5" and (self.terms or self.words)):
            query = query.where(sa.text(f"catalog.{IN_SAMPLE}"))
        if self.index == "postgres":
            if self.words:
                of_words = sa.literal_column("catalog_words.number", number.type)
                if column is number and not self.conditions:
                    query, number = sa.select(of_words.label("number")), of_words
                else:
                    query = query.where(number == of_words)
                query = query.select_from(sa.text("catalog_words")).where(self._find_in_words())
                query = query.where(sa.text(f"catalog_words.{IN_SAMPLE}")) if in_sample else query
            else:
                query = query.where(*self._find_in_terms())
        elif self.terms or self.words:
            # The index leads, whose rows come in the order of their numbers: + keeps SQLite from looking there by them.
            query = query.where(number == sa.literal_column("+catalog_words.rowid"))
            query = query.where(*(self._find_in_fts5(in_sample) if self.index == "fts5" else self._find_in_bodies()))
            query = query.select_from(sa.text("catalog_words"))
            number = _ROWID if self.index == "fts5" else number
        return query if after is None else query.where(number < after)

    def _find_in_terms(self) -> Iterator[sa.ColumnElement[bool]]:
        # All that must be there in one condition: the index takes half the time for it.
        if every := [ids[0] for ids in self.terms.values() if len(ids) == 1]:
            yield catalog.c.terms.contains(every)
        yield from (catalog.c.terms.overlap(list(ids)) for ids in self.terms.values() if len(ids) > 1)

    def _find_in_words(self) -> sa.ColumnElement[bool]:
        # Terms are among the words: one index finds both, where a join would read all rows of a frequent word.
        parts = ["(" + " | ".join(f"'{MARK}{i}'" for i in ids) + ")" for ids in self.terms.values()]
        parts += [f"'{word}'" + (":*" if is_begin else "") for word, is_begin in self.words]
        return sa.literal_column("catalog_words.words").op("@@")(sa.cast(" & ".join(parts), TSQUERY))

    def _find_in_fts5(self, in_sample: bool) -> Iterator[sa.ColumnElement[bool]]:
        parts = [f'"{MARK}"'] if in_sample else []
        parts += ["(" + " OR ".join(f'"{MARK}{i}"' for i in ids) + ")" for ids in self.terms.values()]
        parts += [f'"{word}"' + ("*" if is_begin else "") for word, is_begin in self.words]
        yield sa.literal_column("catalog_words").op("MATCH")(" AND ".join(parts))

    def _find_in_bodies(self) -> Iterator[sa.ColumnElement[bool]]:
        body = sa.literal_column("catalog_words.words", sa.Text)
        for ids in self.terms.values():
            yield sa.or_(*(body.contains(f" {MARK}{i} ") for i in ids))
        for word, is_begin in self.words:
            yield body.contains(f" {word}" if is_begin else f" {word} ")


_ROWID = sa.literal_column("catalog_words.rowid")


@contextmanager
def _read(store: Store) -> Iterator[Connection]:
    """Give a connection that sees one state of the store, and plans each query for the values that it has."""
    with store.snapshot() as conn:
        if not store.is_sqlite:
            # After a few requests PostgreSQL would take one plan for all, frequent values and rare ones, which is right
            # for neither: five times slower.
            conn.exec_driver_sql("SET LOCAL plan_cache_mode = force_custom_plan")
        yield conn


def _find_index(store: Store, conn: Connection) -> Literal["postgres", "fts5", "plain"]:
    if not store.is_sqlite:
        return "postgres"
    made = conn.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'catalog_words'").scalar_one()
    return "fts5" if "fts5" in made else "plain"


def _resolve_ids(store: Store, conn: Connection, ids: Iterable[str]) -> list[str]:
    """Return the ids of comparisons that are meant by ids of comparisons, prompts, completions and judgments."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        by_kind[id[:1]].append(id)
    found = list(by_kind["x"])
    if by_kind["p"]:
        query = sa.select(comparisons.c.id).where(store.among(comparisons.c.prompt_id, by_kind["p"]))
        found += conn.execute(query).scalars()
    if by_kind["j"]:
        query = sa.select(judgments.c.comparison_id).where(store.among(judgments.c.id, by_kind["j"]))
        found += conn.execute(query).scalars()
    if by_kind["c"]:
        of_prompts = sa.select(completions.c.prompt_id).where(store.among(completions.c.id, by_kind["c"]))
        query = sa.select(comparisons.c.id, comparisons.c.completion_ids).where(comparisons.c.prompt_id.in_(of_prompts))
        found += [r.id for r in conn.execute(query) if not set(by_kind["c"]).isdisjoint(r.completion_ids)]
    return found


def _load_ids(conn: Connection, numbers: Sequence[int]) -> dict[int, str]:
    query = sa.select(catalog.c.number, catalog.c.comparison_id).where(catalog.c.number.in_(numbers))
    return dict(conn.execute(query).tuples().all())


def _name_terms(
    counts: Counter[int], known: Mapping[int, tuple[str, str]], facets: Sequence[str], wanted: ComparisonFilter
) -> dict[str, dict[str, int]]:
    """Return facet → value → count, the commonest values first; a value that is filtered by is always there."""
    found: dict[str, dict[str, int]] = {facet: {} for facet in facets}
    of_tag = Counter[str]()
    for id, n in counts.most_common():
        facet, value = known.get(id, ("", ""))
        if facet not in found:
            continue
        if facet == "tag":
            name = value.partition("=")[0]
            if (name not in of_tag and len(of_tag) >= MOST_TAGS) or of_tag[name] >= MOST_VALUES_OF_TAG:
                continue
            of_tag[name] += 1
        elif len(found[facet]) >= MOST_VALUES:
            continue
        found[facet][value] = n
    for facet in facets:
        for value in wanted.facets.get(facet, ()):
            found[facet].setdefault(value, 0)
    return found


def _load_terms(conn: Connection, counted: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Return number → (facet, value) of the terms among those that were counted, the commonest first.

    Tags may have a value for each prompt: only the commonest terms are looked up for them.
    """
    query = sa.select(catalog_terms.c.id, catalog_terms.c.facet, catalog_terms.c.value)
    of_small = query.where(catalog_terms.c.facet != "tag")
    rows = conn.execute(of_small.limit(MOST_TERMS + 1)).all()
    if len(rows) > MOST_TERMS:  # so many batches or policies that which of them would come is chance: as for tags
        chunks = (counted[n : n + MOST_TAG_TERMS] for n in range(0, min(len(counted), MOST_TERMS), MOST_TAG_TERMS))
        rows = [row for some in chunks for row in conn.execute(of_small.where(catalog_terms.c.id.in_(some)))]
    known: dict[int, tuple[str, str]] = {id: (facet, value) for id, facet, value in rows}
    if ids := [id for id in counted if id not in known][:MOST_TAG_TERMS]:
        of_tags = query.where(catalog_terms.c.facet == "tag", catalog_terms.c.id.in_(ids))
        known |= {id: (facet, value) for id, facet, value in conn.execute(of_tags)}
    return known
