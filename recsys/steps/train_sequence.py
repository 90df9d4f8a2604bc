"""Train the sequence network for a data set: for the ranker's label windows, and for serving."""

from __future__ import annotations

from typing import Any

from recsys.steps.context import Context, may_skip, step
from recsys.steps.train_generator import train_generator


@step
@may_skip
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Train and register; see `train_generator`. `dataset`: a reference, the newest data set when None.

    Goes on from an earlier night's model, so that a night learns what is new; `force` starts from scratch. A night runs
    it where RECSYS_GENERATORS names `sequence`: nothing but the ranker's candidates needs it.
    """
    return train_generator(ctx or Context.open(), "sequence", dataset, force=force, from_earlier_nights=True)
