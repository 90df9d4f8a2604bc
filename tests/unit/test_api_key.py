from __future__ import annotations

import hashlib

import pytest

from recsys import api_key


def test_a_key_is_read_as_it_was_made() -> None:
    for _ in range(100):  # secrets hold "_" and "-" now and then
        text, stored = api_key.make()
        assert api_key.read(text) == stored
        prefix, key_id, secret = text.split("_", 2)
        assert (prefix, key_id) == ("rk", stored.key_id)
        assert len(secret) == 43  # 32 bytes in base64
        assert stored.digest == hashlib.sha256(secret.encode()).digest()


def test_no_two_keys_are_alike() -> None:
    made = [api_key.make() for _ in range(100)]
    assert len({stored.key_id for _, stored in made}) == len({stored.digest for _, stored in made}) == 100


@pytest.mark.parametrize("text", ["", "rk", "rk_", "rk_a", "rk_a_", "rk__b", "sk_a_b", "Rk_a_b", " rk_a_b", "Bearer x"])
def test_other_texts_are_no_keys(text: str) -> None:
    assert api_key.read(text) is None
