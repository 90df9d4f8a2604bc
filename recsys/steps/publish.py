"""Publish: check the newest lists of a data set and move the one pointer that readers follow."""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa

from recsys.artifacts import ArtifactStore, split_ref
from recsys.errors import EmptyResultError, NewerDataError
from recsys.serving.list_file import LISTS, ListFileWriter
from recsys.session_index import KIND as SESSION_INDEX
from recsys.steps.context import Context, step
from recsys.storage import lists, pruning, publications
from recsys.storage.lists import ListVersion

LIST_STEPS = (
    "default_recommendations",
    "personal_recommendations",
    "i2i_recommendations",
    "similar_items",
    "rank_users",
    "user_history",
)
_BESIDE_LISTS = {"deepfm": "train_deepfm", SESSION_INDEX: "index_sessions"}  # kind of artifact → step


@step
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Publish the lists of `dataset` (the newest when None), all kinds atomically.

    A kind without lists of the data set keeps its published ones ("kept"); ranked and personal lists that are too old
    or made for another task are removed ("dropped"). Lists of older data than the published ones, from a run for a past
    interval, are not published unless `force` ("skipped").
    Raises PublicationError with all reasons when an invariant is violated, and FencedError when another process
    published or rolled back meanwhile: that publication stays in service.
    """
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    fence = publications.read_fence(ctx.engine)
    found = _newest_lists(ctx, ref)
    if not found:
        raise EmptyResultError(f"there are no lists for {ref}; run the steps that write them first")
    for version in found:
        write_file(ctx.engine, ctx.store, version)
    try:
        published = publications.publish(
            ctx.engine,
            {version.kind: version.list_version_id for version in found},
            fence,
            dataset=ref,
            models=_beside_lists(ctx, ref) | _models(found),
            min_share=ctx.settings.publication_min_share,
            max_age_days=ctx.settings.list_max_age_days,
            task=data.meta.task,
            force=force,
        )
    except NewerDataError as error:
        return {"dataset": ref, "skipped": str(error)}
    pruning.prune(ctx.engine, keep=ctx.settings.publications_kept)
    counted = published.checks["lists"]
    return {
        "dataset": ref,
        "publication_id": published.publication_id,
        "lists": {kind: checks["n_rows"] for kind, checks in counted.items()},
        "age_days": {kind: checks.get("age_days") for kind, checks in counted.items()},
        "dropped": published.checks.get("dropped", {}),
        "kept": published.checks.get("kept", {}),
    }


def write_file(engine: sa.Engine, store: ArtifactStore, version: ListVersion) -> None:
    """Write the lists of a version as a file, too, which every worker of the service maps instead of reading rows."""
    ref = version.meta.get("file")
    if ref is not None and store.exists(ref):
        return
    name = f"{version.version}-{version.kind}-{secrets.token_hex(4)}"  # another database may have lists of that version
    inputs = {"dataset": version.dataset}
    with (
        store.writing(LISTS, name, made_by="publish", inputs=inputs) as (folder, _),
        ListFileWriter(folder, version.kind) as writer,
        engine.connect() as connection,
    ):
        lists.read(connection, version, writer.take)
    lists.tell(engine, version, {"file": f"{LISTS}/{name}"})


def _newest_lists(ctx: Context, dataset: str) -> list[ListVersion]:
    """The newest lists of each list step for the data set."""
    found = []
    for name in LIST_STEPS:
        ref = ctx.newest(name, dataset)
        version = None if ref is None else lists.find(ctx.engine, *split_ref(ref))
        if version is not None:
            found.append(version)
    return found


def _beside_lists(ctx: Context, dataset: str) -> dict[str, str]:
    """Artifacts of the data set that lists need not depend on: the DeepFM with which the service scores where no ranked
    lists depend on another one, and the index of sessions."""
    found = {name: ctx.newest(made_by, dataset) for name, made_by in _BESIDE_LISTS.items()}
    return {name: ref for name, ref in found.items() if ref}


def _models(found: list[ListVersion]) -> dict[str, str]:
    """Model → the artifact of the lists: ALS of the personal lists, and all that the ranked lists depend on."""
    models: dict[str, str] = {}
    for version in found:
        refs = [version.meta.get("model"), version.meta.get("ranker"), *version.meta.get("artifacts", {}).values()]
        models |= {split_ref(ref)[0]: ref for ref in refs if ref}
    return models
