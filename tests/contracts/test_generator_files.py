"""What every candidate generator promises of its files: the same lists, no pickle, nothing damaged or foreign."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.candidates import registry
from recsys.errors import ArtifactError, ModelError
from tests.contracts.generators import (
    ITEM_KEYS,
    N_ITEMS,
    N_USERS,
    USER_KEYS,
    checkerboard,
    every_generator,
    fitted,
    seen_matrix,
)


@every_generator
def test_saved_and_loaded_it_gives_the_same_lists(name: str, params: dict[str, Any], tmp_path: Path) -> None:
    available = np.arange(N_ITEMS) != 3
    model = fitted(name, params, available)
    model.save(tmp_path)
    again = registry.load(name, tmp_path)
    assert type(again) is type(model)
    assert registry_params(again) == registry_params(model)
    seen = seen_matrix(checkerboard()[1])
    for mask in (None, seen):
        before, after = (each.candidates(USER_KEYS, 8, seen=mask) for each in (model, again))
        np.testing.assert_array_equal(before.item_key, after.item_key)
        np.testing.assert_array_equal(before.score, after.score)
    pairs = np.tile(ITEM_KEYS, (N_USERS, 1))
    np.testing.assert_array_equal(model.scores(USER_KEYS, pairs), again.scores(USER_KEYS, pairs))


def registry_params(model: Any) -> dict[str, Any]:
    return {name: getattr(model, name) for name, field in model.__dataclass_fields__.items() if field.init}


@every_generator
def test_no_file_holds_a_pickle(name: str, params: dict[str, Any], tmp_path: Path) -> None:
    fitted(name, params).save(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert {path.suffix for path in files} <= {".npz", ".json", ".keras"}
    for path in files:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    array = np.load(io.BytesIO(archive.read(member)), allow_pickle=False)
                    assert not array.dtype.hasobject


@every_generator
def test_files_of_another_generator_are_refused(name: str, params: dict[str, Any], tmp_path: Path) -> None:
    other = "popular" if name != "popular" else "recent"
    fitted(other, {}).save(tmp_path)
    with pytest.raises(ArtifactError):
        registry.load(name, tmp_path)
    with pytest.raises(ArtifactError):
        registry.load(name, tmp_path / "nowhere")


@every_generator
def test_a_stored_model_with_nan_is_refused(name: str, params: dict[str, Any], tmp_path: Path) -> None:
    fitted(name, params).save(tmp_path)
    for path in tmp_path.rglob("*.npz"):
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        for values in arrays.values():
            if values.dtype.kind == "f" and values.size:
                values.flat[0] = np.nan
        np.savez(path, **arrays)
    with pytest.raises(ModelError, match=name):
        registry.load(name, tmp_path)
