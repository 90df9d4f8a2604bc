"""Write the index of sessions, from which the service answers what follows a user's last events."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import recsys
from recsys.artifacts import version_of
from recsys.candidates.session_neighbours import SessionNeighbours
from recsys.session_index import KIND
from recsys.steps.context import SERVING, Context, may_skip, step
from recsys.steps.train_generator import generator_params

logger = logging.getLogger(__name__)


@step
@may_skip
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Index all events of a data set, the newest when None; the artifact. It holds no users, only items by session.

    Reuses the result of an earlier run with the same inputs, unless `force`.
    """
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    params = generator_params(ctx, SessionNeighbours.name)
    as_of = data.meta.as_of

    def make(folder: Path, meta: dict[str, Any]) -> None:
        index = SessionNeighbours(**params).fit(data.interactions(), data.catalogue(as_of)).index
        index.write(folder)
        meta |= {"n_items": len(index.item_keys), "n_sessions": len(index.parts[0].weight)}

    meta = {"purpose": SERVING, "cut_at": as_of, "params": params, "code_version": recsys.__version__}
    inputs = {"dataset": ref}
    version = version_of(data.meta.as_of_at, inputs | meta)
    manifest, _ = ctx.store.get_or_make(
        KIND, version, make, made_by="index_sessions", inputs=inputs, meta=meta, force=force
    )
    counts = {name: manifest.meta[name] for name in ("n_items", "n_sessions")}
    ctx.record("index_sessions", ref, manifest.ref, as_of=as_of, metrics=counts)
    n_bytes = sum(file["bytes"] for file in manifest.files.values())
    logger.info("%s: %d sessions of %d items, %.0f MiB", manifest.ref, *reversed(counts.values()), n_bytes / 2**20)
    return {"dataset": ref, "serving": manifest.ref, **counts, "n_bytes": n_bytes}
