"""Vectors of items to start from: factors of how often items stand near each other in histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recsys.candidates.sequence_histories import Histories

Floats = NDArray[np.float32]
_DISTANCE = 10  # places
_CONTEXT_EXPONENT = 0.75
_ITERATIONS = 6
_OVERSAMPLED = 16
_SCALE = 0.1  # root mean square of what is given
_NOISE = 0.002  # tells items without neighbours apart


def nearness(histories: Histories, n_items: int) -> sp.csr_matrix:
    """Σ 1/distance over all pairs of different items at most ten places apart: symmetric CSR (n_items, n_items)."""
    user = np.repeat(np.arange(len(histories.users)), histories.length)
    total = sp.csr_matrix((n_items, n_items), dtype=np.float64)
    for distance in range(1, min(_DISTANCE, len(user) - 1) + 1):
        near = (user[distance:] == user[:-distance]) & (histories.item[distance:] != histories.item[:-distance])
        pair = (histories.item[:-distance][near], histories.item[distance:][near])
        total = total + sp.csr_matrix((np.full(len(pair[0]), 1.0 / distance), pair), shape=total.shape)
    return (total + total.T).tocsr()


def factors(near: sp.csr_matrix, dim: int, rng: np.random.Generator) -> Floats:
    """V √|λ| of the positive pointwise mutual information of `near`, (n_items, dim), scaled to what a network likes.

    Levy & Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014; contexts are smoothed by
    an exponent of 0.75 (Levy et al., TACL 2015). The eigenvectors come from a randomised subspace iteration (Halko et
    al. 2011). Columns beyond the number of items are noise.
    """
    n_items = near.shape[0]
    noise = rng.standard_normal((n_items, dim))
    if not near.nnz:
        return (noise * _SCALE).astype(np.float32)
    with threadpool_limits(1, "blas"):  # narrow matrices: several threads would wait for each other
        vectors, values = _eigen(_mutual_information(near), min(dim, n_items), rng)
    found = vectors * np.sqrt(np.abs(values))
    found *= _SCALE / max(float(np.sqrt(np.square(found).mean())), np.finfo(np.float64).tiny)
    result = noise * (_NOISE if found.shape[1] == dim else _SCALE)
    result[:, : found.shape[1]] = found + noise[:, : found.shape[1]] * _NOISE
    return result.astype(np.float32)


def from_neighbours(near: sp.csr_matrix, known: NDArray[np.bool_], vectors: Floats) -> Floats:
    """`vectors` (n_items, dim) where an item that is not `known` (n_items,) has the mean of its known neighbours,
    weighted by nearness; the mean of all known ones where it has none."""
    result = vectors.copy()
    weights = near[~known][:, known]
    total = np.asarray(weights.sum(axis=1)).ravel()
    mean = (weights @ vectors[known]) / np.maximum(total, 1e-12)[:, None]
    result[~known] = np.where((total > 0)[:, None], mean, vectors[known].mean(axis=0))
    return result


def _mutual_information(near: sp.csr_matrix) -> sp.csr_matrix:
    """max(0, log(p(a, b) / (p(a) p(b)^0.75))), made symmetric."""
    entries = near.tocoo()
    degree = np.asarray(near.sum(axis=1)).ravel()
    context = degree**_CONTEXT_EXPONENT
    context /= context.sum()
    value = np.maximum(np.log(entries.data / (degree[entries.row] * context[entries.col])), 0.0)
    result = sp.csr_matrix((value, (entries.row, entries.col)), shape=near.shape)
    return ((result + result.T) / 2).tocsr()


def _eigen(matrix: sp.csr_matrix, n: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """The `n` largest eigenvalues by amount of a symmetric matrix: vectors (size, n) and values (n,)."""
    size = matrix.shape[0]
    basis = np.linalg.qr(rng.standard_normal((size, min(n + _OVERSAMPLED, size))))[0]
    for _ in range(_ITERATIONS):
        basis = np.linalg.qr(matrix @ basis)[0]
    values, turn = np.linalg.eigh(basis.T @ (matrix @ basis))
    order = np.argsort(-np.abs(values), kind="stable")[:n]
    return basis @ turn[:, order], values[order]
