"""Rows of which one value is something else: a reader takes them, or says in a line what is wrong."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rated_rows import HELPSTEER3, PREFERENCE, ULTRAFEEDBACK, binarize, binarize_cleaned, rate_response

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import get_format
from rlhf_hitl.formats.record import SourceRow
from rlhf_hitl.formats.source import RowSource

FILES = Path(__file__).parent / "files"


def first(name: str) -> dict[str, Any]:
    path = FILES / name
    return json.loads(path.read_text())[0] if path.suffix == ".json" else pq.read_table(path).to_pylist()[0]


ROWS = [
    ("argilla", first("argilla_flat.parquet")), ("argilla", first("argilla_nested.json")),
    ("argilla", first("argilla_labels.json")), ("label_studio", first("label_studio_pairs.json")),
    ("label_studio", first("label_studio_buckets.json")), ("label_studio", first("label_studio_pairs_min.json")),
    ("label_studio", first("label_studio_ranks_min.json")), ("ultrafeedback", ULTRAFEEDBACK),
    ("ultrafeedback_binarized", binarize(8, 5)), ("ultrafeedback_binarized", binarize_cleaned(4, 2)),
    ("helpsteer2", rate_response("Q", "A", 1, [2, 3], 3, 4, 0)), ("helpsteer2", PREFERENCE), ("helpsteer3", HELPSTEER3),
]  # fmt: skip

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, "tie", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "rank", "id", "text"]), inner)
    ),
    max_leaves=5,
)


def list_places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to each value within a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in [(*path, key), *list_places(one, (*path, key))]]


@pytest.mark.parametrize(("format", "row"), ROWS, ids=[f"{format}-{i}" for i, (format, _) in enumerate(ROWS)])
@settings(max_examples=60)
@given(data=st.data())
def test_a_value_that_is_something_else_is_read_or_named(format, row, data):
    damaged = copy.deepcopy(row)
    *way, last = data.draw(st.sampled_from(list_places(row)))
    within = damaged
    for key in way:
        within = within[key]
    within[last] = data.draw(values)
    read_row = get_format(format).make_reader(RowSource(FILES / "argilla_labels.json"), "adjacent")
    try:
        records = read_row(SourceRow(damaged, "a:1", unread=Counter()))
        records += read_row.finish() if hasattr(read_row, "finish") else []
        error = ""
    except BadInput as e:
        records, error = [], str(e)
    assert "a:1" in error or records or hasattr(read_row, "finish")
    for record in records:
        groups = record.vote.ranking if record.vote else ()
        assert record.prompt
        assert all(i < len(record.completions) for group in groups for i in group)
