"""The sequence network: what it may see, its numpy twin, its configuration, and its loss against plain formulas."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

pytestmark = [
    pytest.mark.slow,  # importing Keras and its backend takes 20 s
    # Keras 3.15 copies TensorFlow's variables in a way that numpy 2 wants written otherwise
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

CONFIG: dict[str, Any] = {"n_items": 23, "dim": 12, "blocks": 2, "heads": 3, "max_length": 9}


def network(seed: int = 1, **config: Any) -> Any:
    from recsys.networks.sequence import SequenceNetwork
    from recsys.networks.sequence_scorer import network_weights, set_network_weights

    random = np.random.default_rng(seed)
    made = SequenceNetwork(**{**CONFIG, **config})
    made.build()
    weights = network_weights(made)
    set_network_weights(
        made, {name: random.normal(0, 0.5, value.shape).astype(np.float32) for name, value in weights.items()}
    )
    return made


def vectors(made: Any, item: Any, segment: Any = None) -> Any:
    item = np.atleast_2d(np.asarray(item, dtype=np.int32))
    segment = np.ones_like(item) if segment is None else np.atleast_2d(np.asarray(segment, dtype=np.int32))
    return made({"item": item, "segment": segment}).numpy()


def test_later_items_change_nothing() -> None:
    made = network()
    item = np.arange(9) % 23
    changed = item.copy()
    changed[5:] = 17
    before, after = vectors(made, item)[0], vectors(made, changed)[0]
    np.testing.assert_allclose(before[:5], after[:5], rtol=1e-6, atol=1e-6)
    assert np.abs(before[5:] - after[5:]).max() > 0.01


def test_histories_in_one_row_do_not_see_each_other() -> None:
    made = network()
    first, second = [3, 1, 4, 1], [5, 9, 2]
    together = vectors(made, [*first, *second, 0, 0], [1] * 4 + [2] * 3 + [0] * 2)[0]
    np.testing.assert_allclose(together[:4], vectors(made, first)[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(together[4:7], vectors(made, second)[0], rtol=1e-5, atol=1e-5)


def test_the_order_counts() -> None:
    made = network()
    assert np.abs(vectors(made, [3, 1, 4])[0, -1] - vectors(made, [1, 3, 4])[0, -1]).max() > 0.01


def test_the_numpy_twin_gives_the_same_vectors() -> None:
    from recsys.networks.sequence_scorer import SequenceScorer, network_weights

    made = network()
    twin = SequenceScorer(made.config, network_weights(made))
    random = np.random.default_rng(2)
    items = random.integers(0, 23, 60).astype(np.int32)
    starts = np.array([0, 2, 5, 5, 20, 30])
    ends = np.array([2, 5, 14, 7, 30, 60])
    found = twin.user_vectors(items, starts, ends)
    for start, end, vector in zip(starts, ends, found, strict=True):
        latest = items[max(start, end - 9) : end]
        np.testing.assert_allclose(vector, vectors(made, latest)[0, -1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(twin.item_vectors(), axis=1), 1.0, rtol=1e-5)


def test_the_twin_wants_all_weights_in_their_shapes() -> None:
    from recsys.networks.sequence_scorer import SequenceScorer, network_weights

    made = network()
    weights = network_weights(made)
    with pytest.raises(ValueError, match="distance_bias"):
        SequenceScorer({**made.config, "max_length": 8}, weights)
    del weights["block_1/up/bias"]
    with pytest.raises(ValueError, match="received nothing"):
        SequenceScorer(made.config, weights)


def test_the_configuration_makes_the_same_network() -> None:
    from recsys.networks.sequence import CausalBlock, SequenceNetwork

    made = network(dropout=0.25, seed=3)
    again = SequenceNetwork.from_config(made.get_config())
    assert again.config == made.config
    block = CausalBlock.from_config(made.blocks[1].get_config())
    assert block.get_config() == made.blocks[1].get_config()
    with pytest.raises(ValueError, match="received dim=12 and heads=5"):
        CausalBlock(12, 5, 9)
    with pytest.raises(ValueError, match="received 0, 2 and 9"):
        network(n_items=0)


def test_with_the_whole_catalogue_the_loss_is_the_full_softmax() -> None:
    from recsys.networks.sequence import shared_softmax

    random = np.random.default_rng(0)
    table = random.normal(size=(11, 4)).astype(np.float32)
    queries = random.normal(size=(6, 4)).astype(np.float32)
    target = random.integers(0, 11, 6)
    loss = shared_softmax(
        queries, table[target], table, np.zeros(11, dtype=np.float32), target[:, None] == np.arange(11)
    ).numpy()
    logits = queries @ table.T
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), target]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_a_sample_estimates_the_full_softmax() -> None:
    """The mean over many samples of e^loss, in which the sum over the catalogue stands, is that of the whole."""
    from recsys.networks.sequence import shared_softmax

    random = np.random.default_rng(0)
    table = random.normal(size=(40, 4)).astype(np.float32)
    query, target = table[:1] * 0.5, np.array([3])
    exact = np.exp(query @ table.T).sum() / np.exp(query @ table[3])[0]
    log_q = np.full(10, np.log(10 / 40), dtype=np.float32)
    found = []
    for _ in range(2000):
        negative = random.choice(40, 10, replace=False)
        loss = shared_softmax(query, table[target], table[negative], log_q, target[:, None] == negative)
        found.append(np.exp(float(loss[0])))
    assert np.mean(found) == pytest.approx(exact, rel=0.03)
