"""All lists of one version as arrays in a folder: written once, then memory-mapped read-only by every worker.

`rows.npy` (greatest owner + 2,) int32: the row of each owner, `n_lists` for owners without one, and at the end;
`starts.npy` (n_lists + 1,) int64: where each row begins in `item_keys.npy` int32, `scores.npy` float32 and
`sources.npy` int16; for neighbours also `best_keys.npy` and `best_scores.npy`, see `NeighbourIndex`.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from recsys.errors import ArtifactError
from recsys.serving import core
from recsys.serving.neighbours import N_NEIGHBOURS, NeighbourIndex, best_of, empty_row
from recsys.types import Lists

LISTS: Final = "lists"  # kind of the artifacts with such a folder
NEIGHBOUR_KINDS: Final = ("i2i", "similar")  # whose best entries are used for blending
_COLUMNS: Final = {"item_keys": "<i4", "scores": "<f4", "sources": "<i2"}  # of all lists, concatenated
_BEST: Final = {"best_keys": "<i4", "best_scores": "<f4"}
_TYPES: Final = {"rows": "<i4", "starts": "<i8", **_COLUMNS, **_BEST}


class ListFile(core.ListTable):
    """Lists by owner key, mapped from a folder; all processes that map it share the memory."""

    def __init__(self, folder: Path) -> None:
        """Raises ArtifactError where the folder is incomplete or invalid."""
        try:
            rows, starts = _mapped(folder, "rows"), _mapped(folder, "starts")
            columns = [_mapped(folder, name) for name in _COLUMNS]
            self.neighbours = _neighbours(folder, rows)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"no lists can be read from {folder}: {error}") from error
        self._n_lists = len(starts) - 1
        if {*map(len, columns)} != {int(starts[-1])} or int(rows[-1]) != self._n_lists:
            raise ArtifactError(f"no lists can be read from {folder}: its arrays are not of one writing")
        super().__init__(rows, starts, *columns)

    def __len__(self) -> int:
        return self._n_lists


def _neighbours(folder: Path, rows: NDArray[np.int32]) -> NeighbourIndex | None:
    """The best entries of each list, where these are lists of neighbours."""
    if not (folder / "best_keys.npy").exists():
        return None
    return NeighbourIndex(rows, _mapped(folder, "best_keys"), _mapped(folder, "best_scores"))


class ListFileWriter:
    """`with ListFileWriter(folder, kind) as writer`: writes lists block by block; the folder is complete at the end.

    Lists may come in any order, each owner once; padding must be at the end of each row.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._owners: list[NDArray[np.int32]] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._files = ExitStack()
        self._columns = [
            self._files.enter_context(_Column(folder / f"{name}.npy", dtype)) for name, dtype in _COLUMNS.items()
        ]
        self._best: list[_Column] = []
        if kind in NEIGHBOUR_KINDS:
            self._best = [
                self._files.enter_context(_Column(folder / f"{name}.npy", dtype, (N_NEIGHBOURS,)))
                for name, dtype in _BEST.items()
            ]

    def __enter__(self) -> Self:
        return self

    def take(self, lists: Lists) -> None:
        """Write some lists."""
        lengths = lists.lengths
        is_item = np.arange(lists.item_key.shape[1]) < lengths[:, None]
        for column, name in zip(self._columns, ("item_key", "score", "source"), strict=True):
            column.append(getattr(lists, name)[is_item])
        if self._best:
            self._append_best(best_of(lists))
        self._owners.append(lists.owner_key)
        self._lengths.append(lengths)

    def _append_best(self, best: tuple[NDArray[np.int32], NDArray[np.float32]]) -> None:
        for column, values in zip(self._best, best, strict=True):
            column.append(values)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._files:
            if error is not None:
                return
            if self._best:
                self._append_best(empty_row())
            owners = np.concatenate([np.zeros(0, np.int32), *self._owners])
            rows = np.full(int(owners.max(initial=-1)) + 2, len(owners), dtype=np.int32)
            rows[owners] = np.arange(len(owners))
            np.save(self._folder / "rows.npy", rows, allow_pickle=False)
            starts = np.concatenate([np.zeros(1, np.int64), *self._lengths]).cumsum()
            np.save(self._folder / "starts.npy", starts, allow_pickle=False)


class _Column:
    """A growing .npy file; the length in its header is written on closing."""

    def __init__(self, path: Path, dtype: str, item_shape: tuple[int, ...] = ()) -> None:
        self._file = path.open("wb")
        self._dtype, self._item_shape = np.dtype(dtype), item_shape
        self._n = 0
        self._write_header()
        self._begin = self._file.tell()

    def _write_header(self) -> None:
        shape = (self._n, *self._item_shape)
        head: dict[str, Any] = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, head)  # leaves room for a longer first dimension

    def append(self, values: NDArray[Any]) -> None:
        self._n += len(values)
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()
            if self._file.tell() != self._begin:
                raise ArtifactError(f"{self._file.name} is too long for its header")


def _mapped(folder: Path, name: str) -> NDArray[Any]:
    """As a plain array, since lookups in numpy's memmap are slow. ValueError for another type."""
    array = np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
    if array.dtype != _TYPES[name]:
        raise ValueError(f"{name}.npy holds {array.dtype}, not {_TYPES[name]}")
    return array
