from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import StoreError
from tandem.retrieval.chunk_ids import ID_BYTES, none, pack, union, unpack, within

# Zero bytes at the end, which NumPy's byte strings drop, come by themselves once in 256 ids: here often.
IDS = st.lists(
    st.integers(0, 2**128 - 1).map(lambda number: str(uuid.UUID(int=number)))
    | st.integers(0, 255).map(lambda number: str(uuid.UUID(int=number << 120)))
    | st.integers(0, 300).map(lambda number: str(uuid.UUID(int=number)))
)


@given(IDS, IDS)
def test_arrays_of_ids_behave_as_sets_of_text(left: list[str], right: list[str]) -> None:
    assert list(unpack(pack(left))) == left
    both = union([pack(left), none(), pack(right)])
    assert list(unpack(both)) == sorted({*left, *right})
    assert both.nbytes == ID_BYTES * len({*left, *right})
    assert within(pack(left), union([pack(right)])).tolist() == [each in right for each in left]


def test_no_blocks_are_no_ids() -> None:
    assert list(unpack(union([]))) == []


def test_what_is_no_chunk_is_named() -> None:
    with pytest.raises(StoreError, match="'17' is not the id of a chunk"):
        pack(["00000000-0000-0000-0000-000000000001", "17"])
