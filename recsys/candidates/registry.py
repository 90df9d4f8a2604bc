"""The candidate generators by name. A generator's module is imported only when it is asked for (TensorFlow: 20 s)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, cast

from recsys.errors import InputError
from recsys.parameters import made
from recsys.types import CandidateGenerator

_CLASS_BY_NAME = {
    "popular": "recsys.candidates.popular:Popular",
    "recent": "recsys.candidates.recent:Recent",
    "als": "recsys.candidates.als:Als",
    "covisitation": "recsys.candidates.covisitation:Covisitation",
    "next_item": "recsys.candidates.next_item:NextItem",
    "content": "recsys.candidates.content:Content",
    "item_knn": "recsys.candidates.item_knn:ItemKnn",
    "ease": "recsys.candidates.ease:Ease",
    "session_neighbours": "recsys.candidates.session_neighbours:SessionNeighbours",
    "deepfm": "recsys.candidates.deepfm:DeepFm",
    "sequence": "recsys.candidates.sequence:SequenceModel",
}
NAMES: tuple[str, ...] = tuple(_CLASS_BY_NAME)
NETWORKS = ("deepfm", "sequence")  # TensorFlow trains them, in minutes


def class_of(name: str) -> type[CandidateGenerator]:
    """The class of a generator; InputError when there is none of that name."""
    if name not in _CLASS_BY_NAME:
        raise InputError(f"no candidate generator is called {name!r}; there are {', '.join(NAMES)}")
    module, _, attribute = _CLASS_BY_NAME[name].partition(":")
    return cast(type[CandidateGenerator], getattr(import_module(module), attribute))


def make(name: str, params: Mapping[str, Any] | None = None) -> CandidateGenerator:
    """An unfitted generator with these hyper-parameters over its defaults; InputError on one that it does not have, or
    whose value does not fit."""
    return made(class_of(name), name, params or {})


def largest_catalogue(generator: CandidateGenerator) -> int | None:
    """With how many items that have events it can be fitted at most; None where any number will do."""
    return getattr(generator, "largest_catalogue", None)


def load(name: str, folder: Path) -> CandidateGenerator:
    """A fitted generator that its `save` wrote into `folder`; ArtifactError when that holds something else."""
    return class_of(name).load(folder)


def continues(name: str) -> bool:
    """Whether a generator can go on from a model of an earlier cut (`fit` takes `start_from`)."""
    return "start_from" in signature(class_of(name).fit).parameters
