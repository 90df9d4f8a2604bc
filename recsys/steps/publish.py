"""Publish: check the newest lists of a data set and move the one pointer that readers follow."""

from __future__ import annotations

from typing import Any

from recsys.artifacts import split_ref
from recsys.errors import EmptyResultError
from recsys.steps.context import Context, data_ends, step
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


@step
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Make the lists of `dataset` (the newest when None) what readers see, all kinds together.

    A kind for which the data set has no lists keeps what is published now. Lists of older data than those that are
    published, from a run for a past interval, change nothing unless `force`; the result says so.
    Raises PublicationError with all reasons when an invariant is broken, and FencedError when another publisher
    started later: the old publication keeps serving.
    """
    ctx = ctx or Context.open()
    ref, _ = ctx.dataset(dataset)
    live = publications.current(ctx.engine)
    if live is not None and data_ends(live.dataset) > data_ends(ref) and not force:
        reason = f"publication {live.publication_id} is of newer data ({live.dataset}) and stays; force publishes {ref}"
        return {"dataset": ref, "publication_id": live.publication_id, "reason": reason}
    fence = publications.take_fence(ctx.engine)
    found = _newest_lists(ctx, ref)
    if not found:
        raise EmptyResultError(f"there are no lists for {ref}; run the steps that write them first")
    published = publications.publish(
        ctx.engine,
        {version.kind: version.list_version_id for version in found},
        fence,
        dataset=ref,
        models=_scoring_model(ctx, ref) | _models(found),
        min_share=ctx.settings.publication_min_share,
    )
    pruning.prune(ctx.engine, keep=ctx.settings.publications_kept)
    return {
        "dataset": ref,
        "publication_id": published.publication_id,
        "lists": {kind: counted["n_rows"] for kind, counted in published.checks["lists"].items()},
    }


def _newest_lists(ctx: Context, dataset: str) -> list[ListVersion]:
    """What each list step wrote last for the data set."""
    found = []
    for name in LIST_STEPS:
        ref = ctx.newest(name, dataset)
        version = None if ref is None else lists.find(ctx.engine, *split_ref(ref))
        if version is not None:
            found.append(version)
    return found


def _scoring_model(ctx: Context, dataset: str) -> dict[str, str]:
    """The DeepFM that the service scores with where no ranked lists stand on one: that of the data set."""
    ref = ctx.newest("train_deepfm", dataset)
    return {"deepfm": ref} if ref else {}


def _models(found: list[ListVersion]) -> dict[str, str]:
    """Model → the artifact behind the lists: ALS' of the personal lists, and all that the ranked lists stand on."""
    models: dict[str, str] = {}
    for version in found:
        refs = [version.meta.get("model"), version.meta.get("ranker"), *version.meta.get("artifacts", {}).values()]
        models |= {split_ref(ref)[0]: ref for ref in refs if ref}
    return models
