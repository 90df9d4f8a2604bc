"""The layers against their formulas, the network against its numpy twin, and both through their files."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

pytestmark = [
    pytest.mark.slow,  # importing Keras and its backend takes 20 s
    # Keras 3.15 copies TensorFlow's variables in a way that numpy 2 wants written otherwise
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

CONFIG: dict[str, Any] = {
    "user_sizes": [7, 3],
    "item_sizes": [11, 4, 5],
    "history_size": 11,
    "dim": 6,
    "hidden": [8, 5],
}


def inputs(n: int = 9, k: int = 4, length: int = 3, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)

    def rows(shape: tuple[int, ...], sizes: list[int]) -> Any:
        return np.stack([random.integers(0, size, shape) for size in sizes], axis=-1).astype(np.int32)

    return {
        "user": rows((n,), CONFIG["user_sizes"]),
        "history": random.integers(0, CONFIG["history_size"], (n, length)).astype(np.int32),
        "history_weight": random.random((n, length)).astype(np.float32),
        "item": rows((n, k), CONFIG["item_sizes"]),
    }


def network(seed: int = 1) -> Any:
    from recsys.networks.deepfm import DeepFmNetwork
    from recsys.networks.deepfm_scorer import network_weights, set_network_weights

    random = np.random.default_rng(seed)
    made = DeepFmNetwork(**CONFIG)
    made.build()
    weights = network_weights(made)
    set_network_weights(
        made, {name: random.normal(0, 0.5, value.shape).astype(np.float32) for name, value in weights.items()}
    )
    return made


def test_factorization_is_the_sum_over_all_pairs_of_fields() -> None:
    from recsys.networks.factorization import Factorization

    random = np.random.default_rng(0)
    user, item = random.random((5, 1, 3, 4)).astype("float32"), random.random((5, 6, 2, 4)).astype("float32")
    together = np.concatenate([np.broadcast_to(user, (5, 6, 3, 4)), item], axis=2)
    expected = sum((together[..., i, :] * together[..., j, :]).sum(-1) for i, j in itertools.combinations(range(5), 2))
    layer = Factorization()
    np.testing.assert_allclose(np.asarray(layer(together)), expected, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(layer([user, item])), expected, rtol=1e-5)
    assert layer.compute_output_shape([user.shape, item.shape]) == (5, 6)


def test_layers_come_back_from_their_configuration() -> None:
    from recsys.networks.deepfm import DeepFmNetwork
    from recsys.networks.factorization import Factorization
    from recsys.networks.factorization_machine import FactorizationMachine
    from recsys.networks.field_embedding import FieldEmbedding
    from recsys.networks.weighted_bag import WeightedBag

    layers = [Factorization(), FieldEmbedding([3, 4], 2), WeightedBag(5, 2), FactorizationMachine([3, 4], 2)]
    for made in [*layers, DeepFmNetwork(**CONFIG), DeepFmNetwork(**CONFIG, dropout=0.2, seed=3)]:
        again = type(made).from_config(made.get_config())
        assert again.get_config() == made.get_config()


def test_a_factorisation_machine_without_pairs_is_linear() -> None:
    from recsys.networks.factorization_machine import FactorizationMachine

    rows, table = np.array([[1, 0], [2, 1]], dtype="int32"), np.arange(15, dtype="float32").reshape(5, 3)
    for pairs in (True, False):
        made = FactorizationMachine([3, 2], 2, pairs=pairs)
        made.build()
        made.fields.table.assign(table)
        made.bias.assign([0.5])
        one, other = table[rows[:, 0]], table[3 + rows[:, 1]]
        expected = 0.5 + one[:, 2] + other[:, 2] + pairs * (one[:, :2] * other[:, :2]).sum(axis=1)
        np.testing.assert_allclose(np.asarray(made(rows))[:, 0], expected, rtol=1e-6)


def test_dropout_is_for_training_alone_and_follows_its_seed() -> None:
    from recsys.networks.deepfm import DeepFmNetwork
    from recsys.networks.deepfm_scorer import network_weights, set_network_weights

    plain, given = network(), inputs()
    made = [DeepFmNetwork(**CONFIG, dropout=0.5, seed=3) for _ in range(2)]
    for one in made:
        one.build()
        set_network_weights(one, network_weights(plain))
    expected = np.asarray(plain(given))
    first, second = (np.asarray(one(given, training=True)) for one in made)
    np.testing.assert_allclose(np.asarray(made[0](given)), expected, rtol=1e-6)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert not np.allclose(first, expected)


def test_wrong_sizes_are_named() -> None:
    from recsys.networks.deepfm import DeepFmNetwork
    from recsys.networks.field_embedding import FieldEmbedding
    from recsys.networks.weighted_bag import WeightedBag

    with pytest.raises(ValueError, match="received \\[\\] and 2"):
        FieldEmbedding([], 2)
    with pytest.raises(ValueError, match="received 0 and 2"):
        WeightedBag(0, 2)
    with pytest.raises(ValueError, match="hidden"):
        DeepFmNetwork(**{**CONFIG, "hidden": []})
    with pytest.raises(ValueError, match="2 fields"):
        FieldEmbedding([3, 3], 2)(np.zeros((4, 3), dtype="int32"))


def test_the_bag_is_a_weighted_sum() -> None:
    from recsys.networks.weighted_bag import WeightedBag

    bag = WeightedBag(4, 2)
    bag.build((None, 2), (None, 2))
    bag.table.assign([[0, 0], [1, 10], [2, 20], [3, 30]])
    given = bag(np.array([[1, 3], [2, 0]]), np.array([[0.5, 1.0], [2.0, 0.0]], dtype="float32"))
    np.testing.assert_allclose(np.asarray(given), [[3.5, 35.0], [4.0, 40.0]])


def test_sampled_softmax_takes_the_correction_off() -> None:
    from recsys.networks.sampled_softmax import SampledSoftmax

    logits, log_q = np.log([[4.0, 3.0, 2.0]]).astype("float32"), np.log([[2.0, 1.0, 1.0]]).astype("float32")
    assert float(SampledSoftmax()(log_q, logits)) == pytest.approx(-np.log(2 / 7), rel=1e-5)
    log_q[0, 2] = 1e4  # taken out
    assert float(SampledSoftmax()(log_q, logits)) == pytest.approx(-np.log(2 / 5), rel=1e-5)


def test_the_logit_is_that_of_the_paper() -> None:
    """First order + all pairs + MLP over the concatenated embeddings, written out for one pair."""
    from recsys.networks.deepfm_scorer import network_weights

    made, given, dim = network(), inputs(), CONFIG["dim"]
    weights = network_weights(made)
    table = {side: weights[f"{side}_fields/table"] for side in ("user", "item")}
    row, column = 4, 2
    user = [table["user"][sum(CONFIG["user_sizes"][:f]) + r] for f, r in enumerate(given["user"][row])]
    item = [table["item"][sum(CONFIG["item_sizes"][:f]) + r] for f, r in enumerate(given["item"][row, column])]
    bag = given["history_weight"][row] @ weights["history_bag/table"][given["history"][row]]
    vectors = [*(v[:dim] for v in user), bag, *(v[:dim] for v in item)]
    first = sum(v[dim] for v in [*user, *item])
    second = sum(a @ b for a, b in itertools.combinations(vectors, 2))
    kernel = np.concatenate([weights["deep_user/kernel"], weights["deep_item/kernel"]])
    hidden = np.maximum(np.concatenate(vectors) @ kernel + weights["deep_user/bias"], 0)
    hidden = np.maximum(hidden @ weights["deep_1/kernel"] + weights["deep_1/bias"], 0)
    deep = hidden @ weights["deep_out/kernel"] + weights["deep_out/bias"]
    np.testing.assert_allclose(np.asarray(made(given))[row, column], first + second + deep[0], rtol=1e-4)


def test_the_numpy_twin_equals_keras() -> None:
    from recsys.networks.deepfm_scorer import DeepFmScorer, network_weights, weight_shapes

    made, given = network(), inputs(n=50, k=7)
    expected = np.asarray(made(given))
    assert {name: value.shape for name, value in network_weights(made).items()} == weight_shapes(CONFIG)
    scorer = DeepFmScorer(CONFIG, network_weights(made))
    users = scorer.user_side(given["user"], given["history"], given["history_weight"])
    items = scorer.item_side(given["item"].reshape(-1, given["item"].shape[-1]))
    logits = scorer.logits(users, np.arange(50), items, np.arange(350).reshape(50, 7))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_saved_as_keras_it_gives_the_same(tmp_path: Path) -> None:
    import keras

    made, given = network(), inputs()
    before = np.asarray(made(given))
    made.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras", compile=False)
    np.testing.assert_allclose(np.asarray(again(given)), before, rtol=1e-6)


def test_lazy_adam_is_adam_on_the_rows_that_were_read() -> None:
    """Rows read in every step move as by Adam on the dense gradient, repeated rows summed; others stay."""
    import keras
    import tensorflow as tf

    from recsys.networks.lazy_adam import LazyAdam

    random = np.random.default_rng(0)
    start = random.random((6, 3)).astype("float32")
    lazy, dense = keras.Variable(start), keras.Variable(start)
    optimizers = LazyAdam(0.01), keras.optimizers.Adam(0.01)
    rows = np.array([4, 1, 4, 2])
    for _ in range(3):
        gradient = random.normal(size=(4, 3)).astype("float32")
        whole = np.zeros_like(start)
        np.add.at(whole, rows, gradient)
        optimizers[0].apply([tf.IndexedSlices(gradient, rows, start.shape)], [lazy])
        optimizers[1].apply([tf.constant(whole)], [dense])
    np.testing.assert_allclose(lazy.numpy(), dense.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(lazy.numpy()[[0, 3, 5]], start[[0, 3, 5]])
    assert (np.abs(lazy.numpy() - start)[[1, 2, 4]] > 1e-4).all()
