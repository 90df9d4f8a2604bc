"""Blocks of lists to Postgres' binary format and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.storage.list_format import HEADER, TRAILER, Decoder, encode
from recsys.types import Lists


def padded(lengths: list[int], seed: int) -> Lists:
    rng = np.random.default_rng(seed)
    n, k = len(lengths), max(lengths)
    item = rng.integers(0, 2**31 - 1, (n, k)).astype(np.int32)
    item[np.arange(k) >= np.array(lengths)[:, None]] = -1
    score = rng.standard_normal((n, k)).astype(np.float32)
    return Lists(rng.permutation(n).astype(np.int32), item, score, rng.integers(0, 9, (n, k)).astype(np.int16))


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=9).map(sorted),
    seed=st.integers(0, 9),
    piece=st.integers(1, 200),
    rows_per_block=st.integers(1, 4),
)
def test_decoding_gives_back_what_was_encoded(lengths: list[int], seed: int, piece: int, rows_per_block: int) -> None:
    lists = padded(lengths, seed)
    data = encode(7, lists)
    runs = [(length, lengths.count(length)) for length in sorted(set(lengths))]
    decoder = Decoder(runs, rows_per_block)
    blocks = [block for start in range(0, len(data), piece) for block in decoder.feed(data[start : start + piece])]
    decoded = [
        (int(block.owner_key[i]), block.item_key[i].tolist(), block.score[i].tolist(), block.source[i].tolist())
        for block in blocks
        for i in range(len(block))
    ]
    assert decoded == [
        (
            int(lists.owner_key[i]),
            lists.item_key[i, :n].tolist(),
            lists.score[i, :n].tolist(),
            lists.source[i, :n].tolist(),
        )
        for i, n in enumerate(lengths)
    ]


def test_one_row_byte_by_byte() -> None:
    one = Lists(np.array([5]), np.array([[258]]), np.array([[1.0]], np.float32), np.array([[3]], np.int16))
    array_head = "00000001 00000000 {oid} 00000001 00000001"
    expected = bytes.fromhex(
        "0005"
        "00000008 0000000000000002"
        "00000004 00000005"
        f"0000001c {array_head.format(oid='00000017')} 00000004 00000102"
        f"0000001c {array_head.format(oid='000002bc')} 00000004 3f800000"
        f"0000001a {array_head.format(oid='00000015')} 00000002 0003"
    )
    assert encode(2, one) == HEADER + expected + TRAILER
