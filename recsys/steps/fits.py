"""Generators fitted in place, as an evaluation needs them: with a warm start, their seconds, and each fit made once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.candidates import registry
from recsys.types import CandidateGenerator, Catalogue, Interactions

_SECONDS = "seconds.json"


class FitStore:
    """Fitted generators in a folder, for evaluations of one data set that share some of their cuts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str, params: Mapping[str, Any], cut_at: int) -> tuple[CandidateGenerator, float] | None:
        """The generator that was kept, and the seconds that its fit took; None where there is none."""
        folder = self._place(name, params, cut_at)
        if not (folder / _SECONDS).exists():
            return None
        return registry.load(name, folder), float(json.loads((folder / _SECONDS).read_text()))

    def keep(self, generator: CandidateGenerator, params: Mapping[str, Any], cut_at: int, seconds: float) -> None:
        """Write a fitted generator down."""
        folder = self._place(generator.name, params, cut_at)
        folder.mkdir(parents=True, exist_ok=True)
        generator.save(folder)
        (folder / _SECONDS).write_text(json.dumps(seconds))

    def _place(self, name: str, params: Mapping[str, Any], cut_at: int) -> Path:
        digest = hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode()).hexdigest()
        return self._folder / f"{name}-{cut_at}-{digest[:12]}"


class Fits:
    """Fits generators, with a warm start from the earlier cut where possible, and measures the seconds of each.

    With a `store` a generator that was fitted before the same cut, with the same parameters, is taken from there.
    """

    def __init__(
        self,
        params: Mapping[str, Mapping[str, Any]],
        earlier: Mapping[str, CandidateGenerator],
        store: FitStore | None = None,
    ) -> None:
        self._params, self._earlier, self._store = params, earlier, store
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, history: Interactions, catalogue: Catalogue) -> CandidateGenerator:
        params = self._params.get(name, {})
        if self._store and (found := self._store.find(name, params, history.cut_at)):
            generator, self.seconds[name] = found
            return generator
        started = time.monotonic()
        warm_start = {"start_from": self._earlier[name]} if name in self._earlier and registry.continues(name) else {}
        fitted = registry.make(name, params).fit(history, catalogue, **warm_start)
        self.seconds[name] = time.monotonic() - started
        if self._store:
            self._store.keep(fitted, params, history.cut_at, self.seconds[name])
        return fitted
