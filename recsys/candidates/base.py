"""What all candidate generators share: matrices, the best n of a score matrix, files.

Outside, users and items are keys; inside a model they are positions in sorted key arrays (`KeyIndex`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recsys.decay import decay
from recsys.errors import ArtifactError, InputError, ModelError
from recsys.keys import KeyIndex, Positions, runs
from recsys.types import NO_ITEM, Candidates, Catalogue, Interactions, Keys, Scores

Best = tuple[Positions, Scores]  # (rows, n) item positions, -1 where there are fewer; their scores, NaN there

FORMAT = 1
TREND_PRIOR = 5.0  # average events
LEAST_DECAY = 2.0**-20
FILTERED = np.finfo(np.float32).min / 2  # implicit gives filtered items the lowest float32
ARRAYS = "model.npz"
DESCRIPTION = "model.json"


def usable_history(interactions: Interactions, catalogue: Catalogue) -> Interactions:
    """The events on items of the catalogue that speak for their item, each with its weight times its label.

    Raises InputError when a weight is not finite, or when no event is left to learn from.
    """
    if not np.isfinite(interactions.weight).all():
        raise InputError("some event weights are not finite; check the event weights in the settings and the values")
    favour = interactions.in_favour
    usable = (KeyIndex(catalogue.item_key).positions(favour.item_key) >= 0) & (favour.weight > 0)
    history = favour if usable.all() else favour.take(usable)
    if not len(history):
        raise InputError(
            f"nothing to learn from: none of {len(interactions)} events before the cut has a positive weight and an "
            f"item among the {len(catalogue)} of the catalogue; import events or choose a later cut"
        )
    return history


def known_history(interactions: Interactions, items: KeyIndex) -> Interactions:
    """As `usable_history`, on the items that a model knows; it may be empty."""
    favour = interactions.in_favour
    return favour.take((items.positions(favour.item_key) >= 0) & (favour.weight > 0))


def mean_weight(history: Interactions) -> float:
    """The mean weight of an event. Divided by it, weights mean the same to a regularization whatever their scale."""
    return float(history.weight.mean(dtype=np.float64))


def later_steps(history: Interactions, step: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many other values of `step` (n,) follow each event in its user's events, in time order: (n,), 0 for the
    last. With `session_id` that is the session counted from the end, with `occurred_at` the place: events of one
    instant, as the lines of an invoice, share it."""
    order = np.argsort(history.user_key, kind="stable")
    user = history.user_key[order]
    begins = np.zeros(len(user), dtype=np.int64)
    begins[runs(user, step[order])[0]] = 1
    number = np.cumsum(begins)
    first = runs(user)[0]
    n_events = np.diff(first, append=len(user))
    later = np.empty(len(user), dtype=np.int64)
    later[order] = np.repeat(number[first + n_events - 1], n_events) - number
    return later


def current_weight(history: Interactions, half_life_days: float, half_life_sessions: float) -> Scores:
    """What each event says of what its user wants now: `decayed_weight` · 2^(-sessions since / half_life_sessions),
    float32 (n,). The second factor is never below `LEAST_DECAY`."""
    recency = np.maximum(decay(later_steps(history, history.session_id), half_life_sessions), LEAST_DECAY)
    return (decayed_weight(history, half_life_days) * recency).astype(np.float32)


def freshness(history: Interactions, half_life_days: float) -> Scores:
    """`decay`, float32 (n,), where age counts from the newest event of `history`, not from the cut: a shop that has
    been silent for years is not forgotten. Never below `LEAST_DECAY`, for the same reason."""
    age_days = history.age_days
    return np.maximum(decay(age_days - age_days.min(initial=np.inf), half_life_days), LEAST_DECAY).astype(np.float32)


def decayed_weight(history: Interactions, half_life_days: float) -> Scores:
    """`weight · freshness`, float32 (n,)."""
    return history.weight * freshness(history, half_life_days)


def user_item_matrix(history: Interactions, weights: Scores, users: KeyIndex, items: KeyIndex) -> sp.csr_matrix:
    """Weights summed by user and item: CSR float32 (n_users, n_items), columns ascending; unknown keys left out."""
    rows, columns = users.positions(history.user_key), items.positions(history.item_key)
    known = (rows >= 0) & (columns >= 0)
    if not known.all():
        rows, columns, weights = rows[known], columns[known], weights[known]
    matrix = sp.csr_matrix(
        (weights.astype(np.float32), (rows.astype(np.int32), columns.astype(np.int32))), shape=(len(users), len(items))
    )
    matrix.sum_duplicates()
    return matrix


def recent_and_total(
    history: Interactions, items: KeyIndex, half_life_days: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Σ decayed weights and Σ weights of each item, each (n_items,), float64; `items` hold all items of `history`."""
    at = items.positions(history.item_key)
    recent = np.bincount(at, decayed_weight(history, half_life_days), minlength=len(items))
    return recent, np.bincount(at, history.weight, minlength=len(items))


def item_trend(history: Interactions, items: KeyIndex, half_life_days: float, exponent: float) -> Scores:
    """How much of each item's weight is recent, relative to the average item: float32 (n_items,), around 1.

    ((Σ decayed weights + p·r) / (Σ weights + p) / r) ^ exponent, where r is the decayed share of all weight and p
    is worth `TREND_PRIOR` average events: an item with few events has an average trend.
    """
    recent, total = recent_and_total(history, items, half_life_days)
    share = recent.sum() / total.sum()
    prior = TREND_PRIOR * float(history.weight.mean(dtype=np.float64))
    return (((recent + prior * share) / ((total + prior) * share)) ** exponent).astype(np.float32)


def seen_positions(seen: Any | None, items: KeyIndex, n_users: int) -> sp.csr_matrix | None:
    """`seen` (columns are item keys) with item positions as columns: CSR of ones (n_users, n_items), or None.

    Raises InputError when it has not one row per user.
    """
    if seen is None:
        return None
    if seen.shape[0] != n_users:
        raise InputError(f"`seen` has {seen.shape[0]} rows for {n_users} users; give one row per user, in their order")
    entries = sp.coo_matrix(seen)
    columns = items.positions(entries.col)
    keep = (columns >= 0) & (entries.data != 0)
    ones = np.ones(int(keep.sum()), dtype=np.float32)
    mask = sp.csr_matrix((ones, (entries.row[keep], columns[keep].astype(np.int32))), shape=(n_users, len(items)))
    mask.sum_duplicates()
    mask.data[:] = 1.0
    return mask


def best_of_dense(scores: Scores, n: int) -> Best:
    """The best `n` columns of each row of (rows, n_items), best first; -inf entries are never chosen."""
    n_found = min(n, scores.shape[1])
    if n_found < scores.shape[1]:
        chosen = np.argpartition(-scores, n_found - 1, axis=1)[:, :n_found]
        chosen.sort(axis=1)  # equal scores come in the order of their keys
    else:
        chosen = np.broadcast_to(np.arange(n_found), (len(scores), n_found))
    chosen_scores = np.take_along_axis(scores, chosen, axis=1)
    order = np.argsort(-chosen_scores, axis=1, kind="stable")
    positions = np.full((len(scores), n), -1, dtype=np.int64)
    best = np.full((len(scores), n), np.nan, dtype=np.float32)
    positions[:, :n_found] = np.take_along_axis(chosen, order, axis=1)
    best[:, :n_found] = np.take_along_axis(chosen_scores, order, axis=1)
    nothing = ~np.isfinite(best)
    positions[nothing], best[nothing] = -1, np.nan
    return positions, best


def best_products(query: Scores, vectors: Scores, n: int, mask: sp.csr_matrix | None = None, threads: int = 0) -> Best:
    """The `n` rows of `vectors` (n_items, d) with the largest product with each of `query` (rows, d), best first, less
    those of `mask` (rows, n_items); by `implicit`'s own search, on all cores where `threads` is 0."""
    from implicit.cpu.topk import topk

    positions = np.full((len(query), n), -1, dtype=np.int64)
    best = np.full((len(query), n), np.nan, dtype=np.float32)
    k = min(n, len(vectors))
    if k:
        with threadpool_limits(1, "blas"):  # implicit brings its own threads
            found, scores = topk(vectors, query, k, filter_query_items=mask, num_threads=threads)
        kept = scores > FILTERED
        positions[:, :k] = np.where(kept, found, -1)
        best[:, :k] = np.where(kept, scores, np.nan)
    return positions, best


def best_of_sparse(scores: sp.csr_matrix, n: int) -> Best:
    """The best `n` stored positive entries of each row of a CSR matrix, best first; ties in the order of columns.

    Row, score (positive floats sort like their bits) and column are packed into one 64-bit number, so that one
    plain sort does it all; that leaves 33 bits for row and column, hence the blocks of rows.
    """
    column_bits = max(int(scores.shape[1] - 1).bit_length(), 1)
    rows_per_block = 1 << (33 - column_bits)
    positions = np.full((scores.shape[0], n), -1, dtype=np.int64)
    best = np.full((scores.shape[0], n), np.nan, dtype=np.float32)
    for start in range(0, scores.shape[0], rows_per_block):
        block = scores[start : start + rows_per_block] if scores.shape[0] > rows_per_block else scores
        row, values = rows_of(block).astype(np.uint64), block.data.astype(np.float32)
        positive = values > 0
        falling = np.uint64(0x7FFFFFFF) - values[positive].view(np.uint32)
        packed = (row[positive] << np.uint64(31) | falling) << np.uint64(column_bits)
        packed |= block.indices[positive].astype(np.uint64)
        packed.sort()
        score_of_row = packed >> np.uint64(column_bits)
        row = (score_of_row >> np.uint64(31)).astype(np.int64)
        rank = runs(row)[1]
        keep = rank < n
        at = (start + row[keep], rank[keep])
        positions[at] = (packed[keep] & np.uint64((1 << column_bits) - 1)).astype(np.int64)
        best[at] = (np.uint64(0x7FFFFFFF) - (score_of_row[keep] & np.uint64(0x7FFFFFFF))).astype(np.uint32).view("f4")
    return positions, best


def rows_of(matrix: sp.csr_matrix) -> Positions:
    """The row of each stored entry of a CSR matrix."""
    return np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))


def ranked(
    owner_keys: Keys,
    n: int,
    known: NDArray[np.bool_],
    items: KeyIndex,
    best: Callable[[Positions], Best],
    rows_per_chunk: int = 1024,
) -> Candidates:
    """Candidates of all owners, made chunk by chunk.

    `best` takes positions in `owner_keys` (rows,) and gives the best n item positions and scores of each;
    it is asked for owners of `known` (n_owners,) alone, all others get none.
    """
    if n < 1:
        raise InputError(f"n must be at least 1, received {n}")
    keys = np.full((len(owner_keys), n), NO_ITEM, dtype=np.int32)
    scores = np.full((len(owner_keys), n), np.nan, dtype=np.float32)
    wanted = np.flatnonzero(known) if len(items) else np.zeros(0, dtype=np.int64)
    for start in range(0, len(wanted), rows_per_chunk):
        rows = wanted[start : start + rows_per_chunk]
        positions, scores[rows] = best(rows)
        keys[rows] = np.where(positions >= 0, items.keys[np.maximum(positions, 0)], NO_ITEM)
    return Candidates(np.asarray(owner_keys, dtype=np.int32), keys, scores)


def scored(
    user_keys: Keys,
    item_keys: Keys,
    users: KeyIndex,
    items: KeyIndex,
    score: Callable[[Positions, Positions], Scores],
    rows_per_chunk: int = 1024,
) -> Scores:
    """Scores of pairs, chunk by chunk: (n,) and (n, k) → (n, k), NaN where user or item is unknown.

    `score` takes user positions (rows,) and item positions (rows, k), all ≥ 0, and gives (rows, k).
    """
    if item_keys.shape[:1] != user_keys.shape:
        raise InputError(f"scores wants (n,) users and (n, k) items, received {user_keys.shape} and {item_keys.shape}")
    result = np.full(item_keys.shape, np.nan, dtype=np.float32)
    at_user, at_item = users.positions(user_keys), items.positions(item_keys)
    wanted = np.flatnonzero(at_user >= 0)
    for start in range(0, len(wanted), rows_per_chunk):
        rows = wanted[start : start + rows_per_chunk]
        known = at_item[rows] >= 0
        result[rows] = np.where(known, score(at_user[rows], np.maximum(at_item[rows], 0)), np.nan)
    return result


def require_finite(name: str, **arrays: NDArray[Any]) -> None:
    """ModelError when one of the arrays holds NaN or infinity."""
    for part, values in arrays.items():
        if not np.isfinite(values).all():
            raise ModelError(
                f"{name}: {part} is not finite after fitting; check the event weights, or raise the regularization"
            )


def hyper_parameters(model: Any) -> dict[str, Any]:
    """The fields of a generator that its constructor takes."""
    return {field.name: getattr(model, field.name) for field in fields(model) if field.init}


def save_model(folder: Path, model: Any, cut_at: int, arrays: Mapping[str, NDArray[Any] | sp.csr_matrix]) -> None:
    """Write `model.npz` (no pickle) and `model.json` (name, hyper-parameters, cut) into `folder`."""
    flat: dict[str, NDArray[Any]] = {}
    for part, values in arrays.items():
        if isinstance(values, sp.csr_matrix):
            flat |= {f"{part}.data": values.data, f"{part}.indices": values.indices, f"{part}.indptr": values.indptr}
            flat[f"{part}.shape"] = np.asarray(values.shape)
        else:
            flat[part] = values
    np.savez(folder / ARRAYS, allow_pickle=False, **flat)
    description = {"name": model.name, "format": FORMAT, "cut_at": cut_at, "params": hyper_parameters(model)}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True))


def load_model(folder: Path, name: str) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """Hyper-parameters, cut and arrays (CSR matrices rebuilt) of a model that `save_model` wrote.

    Raises ArtifactError when the files are missing, damaged, or hold another kind of model; ModelError when an
    array is not finite.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        with np.load(folder / ARRAYS, allow_pickle=False) as file:
            flat = {part: file[part] for part in file.files}
    except (OSError, ValueError) as error:
        raise ArtifactError(f"no {name} model can be read from {folder}: {error}; train it again") from error
    if description.get("name") != name or description.get("format") != FORMAT:
        raise ArtifactError(
            f"{folder} holds a model {description.get('name')!r} of format {description.get('format')}, "
            f"expected {name!r} of format {FORMAT}; train it again"
        )
    arrays: dict[str, Any] = {part: values for part, values in flat.items() if "." not in part}
    for part in {part.split(".")[0] for part in flat if "." in part}:
        data, indices, indptr = (flat[f"{part}.{piece}"] for piece in ("data", "indices", "indptr"))
        arrays[part] = sp.csr_matrix((data, indices, indptr), shape=tuple(flat[f"{part}.shape"]))
    require_finite(name, **{part: values for part, values in flat.items() if values.dtype.kind == "f"})
    return description["params"], description["cut_at"], arrays
