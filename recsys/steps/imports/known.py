"""Detects from its rows, not its name, whether a new file of events is a loaded one that has grown."""

from __future__ import annotations

from collections.abc import Sequence

from recsys.data.sources.base import Part
from recsys.errors import InputError
from recsys.storage.raw_differences import Staged
from recsys.storage.raw_imports import FileProgress
from recsys.storage.raw_seen import Seen

CONTAINED = 0.9  # share of a loaded file's rows in the new file from which on it is that file grown
NEARLY_ALL = 0.9  # share of the new file's rows loaded already from which on it continues several files
ACCIDENTAL = 0.05  # below this share, rows of the new file may equal loaded ones by chance


def continued(part: Part, staged: Staged, files: Sequence[FileProgress], *, is_known: bool) -> list[FileProgress]:
    """The files of `files` that the staged one contains, so that only its other rows are new; none where it is new.

    `is_known`: by its name it is a file that has grown; then it may share any rows with others.
    InputError where too many of its rows are loaded for a new file, and too few for a grown one.
    """
    shared = staged.shared()
    touched = [file for file in files if shared.get(file.file_id)]
    contained = [file for file in touched if shared[file.file_id] >= CONTAINED * file.n_loaded]
    partly = [file for file in touched if file not in contained]
    n_rest = staged.n_rows - sum(shared[file.file_id] for file in contained)
    n_partly = sum(shared[file.file_id] for file in partly)
    if is_known or not n_partly:
        return contained
    n_there = sum(shared[file.file_id] for file in touched)
    if n_there >= NEARLY_ALL * staged.n_rows or n_there >= CONTAINED * sum(file.n_loaded for file in touched):
        return touched
    if n_partly >= ACCIDENTAL * n_rest:
        raise InputError(
            f"{part.path}: {n_there:,} of its {staged.n_rows:,} events equal events of {shown(touched)}, "
            f"which {'has' if len(touched) == 1 else 'have'} {sum(file.n_loaded for file in touched):,}: "
            "too many for a new file, too few for a grown one. Nothing was loaded. "
            "--drop-duplicates loads the events that are not loaded yet, --keep-duplicates all of them again"
        )
    return contained


def are_others(staged: Staged, files: Sequence[FileProgress], seen: Seen) -> bool:
    """Whether `continued` certainly finds none, decided without reading loaded rows."""
    n = staged.n_known(seen)
    return n < ACCIDENTAL * staged.n_rows and all(n < CONTAINED * file.n_loaded for file in files)


def shown(files: Sequence[FileProgress]) -> str:
    """Up to three file names, as text."""
    names = list(dict.fromkeys(file.file for file in files))
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} others" if len(names) > 3 else "")
