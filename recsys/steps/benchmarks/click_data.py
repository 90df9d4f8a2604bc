"""Frappe in libfm form (Baltrunas et al. 2015; the split of NFM, SIGIR 2017): apps that users started, by context.

A folder with `*.train_positives.libfm.gz`, `*.validation.libfm.gz`, `*.test.libfm.gz` (lines `label feature:1 …`, one
feature of each field) and `feature_map.csv.gz` (feature, field, value). Of the training part only positives are there:
for each, two negatives are drawn: apps that the user has not started, in the same context, evenly over all apps.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.errors import InputError
from recsys.keys import pairs_of

Rows = NDArray[np.int32]  # (n, n_fields), each value counted within its field
USER, ITEM = 0, 1  # the first two fields
N_NEGATIVES = 2  # per positive
_MOST_DRAWS = 1_000  # of one negative


@dataclass(frozen=True)
class Labelled:
    """Rows and whether the app was started, (n,)."""

    rows: Rows
    label: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, at: NDArray[np.integer] | slice) -> Labelled:
        return Labelled(self.rows[at], self.label[at])

    def joined(self, other: Labelled) -> Labelled:
        return Labelled(np.concatenate([self.rows, other.rows]), np.concatenate([self.label, other.label]))


@dataclass(frozen=True)
class Clicks:
    """The three parts, and how many values each field has."""

    fields: Sequence[str]
    sizes: Sequence[int]
    positives: Rows  # of the training part
    validation: Labelled
    test: Labelled

    @classmethod
    def read(cls, folder: Path) -> Self:
        """InputError where a file is missing or is not of that form."""
        try:
            known = pd.read_csv(folder / "feature_map.csv.gz", usecols=["feature", "field"])
            fields, first, sizes = np.unique(known["field"].to_numpy(), return_index=True, return_counts=True)
            order = np.argsort(first)
            names, numbers = fields[order].tolist(), sizes[order].tolist()
            parts = [_read(folder, name, numbers) for name in ("train_positives", "validation", "test")]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder} holds no clicks in libfm form: {error}") from error
        if len(names) < 2 or not parts[0].label.all():
            raise InputError(f"{folder}: a user and an item, and training positives alone, are expected")
        return cls(names, numbers, parts[0].rows, parts[1], parts[2])

    def first(self, n: int) -> Clicks:
        """The first `n` training positives, and as many of the others."""
        return Clicks(
            self.fields, self.sizes, self.positives[:n], *(p.take(slice(n)) for p in (self.validation, self.test))
        )

    def training(self, seed: int) -> Labelled:
        """The training positives with negatives drawn by `seed`; validation and test are not looked at.

        InputError where a user has started nearly all apps.
        """
        rng, n_items = np.random.default_rng(seed), self.sizes[ITEM]
        used = np.unique(pairs_of(self.positives[:, USER], self.positives[:, ITEM]))
        negatives = np.repeat(self.positives, N_NEGATIVES, axis=0)
        left = np.arange(len(negatives))
        for _ in range(_MOST_DRAWS):
            negatives[left, ITEM] = rng.integers(0, n_items, len(left))
            left = left[np.isin(pairs_of(negatives[left, USER], negatives[left, ITEM]), used)]
            if not len(left):
                label = np.repeat([True, False], [len(self.positives), len(negatives)])
                return Labelled(np.concatenate([self.positives, negatives]), label)
        raise InputError("a user has started nearly all apps: no negatives can be drawn")


def _read(folder: Path, name: str, sizes: Sequence[int]) -> Labelled:
    """One file; ValueError where a line does not have one feature of each field."""
    path = next(iter(sorted(folder.glob(f"*{name}.libfm.gz"))), folder / f"{name}.libfm.gz")
    with gzip.open(path, "rt") as file:
        found = [line.split() for line in file]
    label = np.array([float(line[0]) > 0 for line in found])
    features = np.array([[int(one.partition(":")[0]) for one in line[1:]] for line in found], dtype=np.int64)
    starts = np.cumsum([0, *sizes])
    if features.ndim != 2 or features.shape[1] != len(sizes):
        raise ValueError(f"{path.name}: each line needs a label and {len(sizes)} features")
    rows = features - starts[:-1]
    if (rows < 0).any() or (rows >= np.array(sizes)).any():
        raise ValueError(f"{path.name}: a feature is not of its field")
    return Labelled(rows.astype(np.int32), label)
