"""A network as a .keras file, written without Keras from an outline that was made with it.

The service has new weights every second and no Keras; the night has Keras and does not know those weights.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from recsys.networks.deepfm_scorer import Floats

OUTLINE: Final = "keras.json"
KERAS_FILE: Final = "network.keras"
CONFIG, METADATA, PLACES = "config", "metadata", "weights"  # in the outline
_WEIGHTS_FILE: Final = "model.weights.h5"  # in a .keras file


def read_places(file: Path) -> dict[str, Floats]:
    """The arrays of a .keras file by their place in it."""
    import h5py

    found: dict[str, Floats] = {}

    def visit(place: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            found[place] = entry[()]

    with zipfile.ZipFile(file) as archive, archive.open(_WEIGHTS_FILE) as inner, h5py.File(inner) as weights:
        weights.visititems(visit)
    return found


def outline_of(file: Path, place_by_name: Mapping[str, str]) -> dict[str, Any]:
    """What a .keras file says beside its weights, as JSON, with the place of each weight in it by our name."""
    with zipfile.ZipFile(file) as archive:
        config, metadata = (json.loads(archive.read(f"{part}.json")) for part in (CONFIG, METADATA))
    return {CONFIG: config, METADATA: metadata, PLACES: dict(place_by_name)}


def write_keras_file(outline: Mapping[str, Any], weights: Mapping[str, Floats], file: Path) -> None:
    """The network of an outline with these weights, for `keras.saving.load_model`."""
    import h5py  # 10 MiB that the service needs for nothing else

    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".weights-") as scratch:
        with h5py.File(scratch.name, "w") as made:
            for name, place in outline[PLACES].items():
                made.create_dataset(place, data=weights[name])
        with zipfile.ZipFile(file, "w") as archive:
            for part in (CONFIG, METADATA):
                archive.writestr(f"{part}.json", json.dumps(outline[part]))
            archive.write(scratch.name, _WEIGHTS_FILE)
