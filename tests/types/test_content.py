"""Ids of content: the hash of its JSON, which has to stay what it was."""

from __future__ import annotations

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from rlhf_hitl.types.content import make_content_id

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
)


@given(st.lists(VALUES, max_size=4))
def test_an_id_is_the_hash_of_the_json_with_sorted_keys(parts):
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    assert make_content_id("x", *parts) == f"x_{hashlib.sha256(text.encode()).hexdigest()[:24]}"
