"""Values of JSON, as a claim or a payload may hold them in place of what is expected."""

from __future__ import annotations

from hypothesis import strategies as st

HUGE = 10**400  # an integer that no float can hold
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(HUGE)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
