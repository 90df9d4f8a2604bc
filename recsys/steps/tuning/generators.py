"""What one configuration of a candidate generator reaches on the validation part of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recsys.candidates import registry
from recsys.evaluation import report
from recsys.evaluation.comparison import PerUser, mean_by_user
from recsys.evaluation.metrics import accuracy, pool_recall
from recsys.steps.stages import OWN_ITEMS
from recsys.steps.tuning.search import Figures
from recsys.steps.tuning.sets import TuningSet
from recsys.types import Task

LIST_LENGTH = 100


def task_of(name: str) -> Task:
    """What a generator is tuned for: discovery; own items alone for what is bought again, too."""
    return Task.ALL if name == OWN_ITEMS else Task.DISCOVERY


def measure(data: TuningSet, name: str, params: Mapping[str, Any]) -> Figures:
    """NDCG@10 of each user, and the mean recall of the first 100 candidates; fitted once for each part of the set."""
    values, recalls = [], []
    for part in data.parts(task_of(name)):
        model = registry.make(name, params).fit(part.history, part.catalogue)
        if part.inputs is not None:
            model = model.with_histories(part.inputs)
        users = part.labels.user_key
        lists = model.candidates(users, LIST_LENGTH, seen=part.mask(users)).item_key
        values.append(PerUser(users, accuracy(lists, part.labels)[report.HEADLINE]))
        recalls.append(pool_recall(lists, part.labels))
    return Figures(mean_by_user(values), float(np.concatenate(recalls).mean()))
