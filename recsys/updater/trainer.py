"""The online model between two nightly trainings: learns events in order, evaluates its predictions, can be restored.

Independent of Postgres and of the clock: its state is a deterministic function of the nightly model, the options and
the events with the numbers of the updates in which they were learned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from recsys.errors import ArtifactError, ModelError
from recsys.features.deepfm_fields import Floats
from recsys.serving.scorer import Scorer
from recsys.serving.update import OPTIMIZER, STREAM, WEIGHTS, Update, read_arrays
from recsys.settings import UpdaterSettings
from recsys.updater.examples import Known, Stream, TrainingExamples
from recsys.updater.pool import ItemPool
from recsys.updater.replay import ReplayBuffer
from recsys.updater.validation import COLUMNS, Judged, Window, judge

if TYPE_CHECKING:
    from recsys.updater.learner import Learner

_MIN_REPLAYED: Final = 16  # rows beside a new one: the gradient of a single event is too noisy
_RIGHT_BEFORE: Final = 1000  # events; the level of probabilities moves as if so many had been predicted right


class _Seen(NamedTuple):
    """A step and its evaluation, kept for the guard."""

    inputs: dict[str, Any]
    log_q: Floats
    label: Floats
    judged: Judged


class Trainer:
    """See the module docstring. `folder`: the serving artifact of the nightly model."""

    def __init__(self, folder: Path, weight_by_type: Mapping[str, float], options: UpdaterSettings) -> None:
        """ArtifactError where the artifact is incomplete or predates the updater."""
        from recsys.updater.learner import Learner  # Keras: importing it takes seconds

        self.options, self._folder = options, folder
        self.scorer = Scorer(folder)
        self.spec = self.scorer.spec
        if not self.spec.training:
            raise ArtifactError(f"{folder} has no settings to continue its training; run train_deepfm --force")
        self._weight_by_type = weight_by_type
        rate = options.learning_rate or self.spec.training["learning_rate"]
        self.learner = Learner(self.spec.network, dict(self.scorer.weights), rate)
        self.begin()

    def begin(self) -> None:
        """Reset to the nightly model and its data, without any update."""
        self._reset_model()
        self.pool = ItemPool(self._folder, self.spec, self.scorer.state)
        self.stream = Stream(self.scorer, self.pool, self._weight_by_type)
        self.buffer = ReplayBuffer(self.options.buffer_rows, self.options.seed)
        self.buffer.seed_with(self.scorer, self.pool)

    def _reset_model(self) -> None:
        self.learner.reset()
        self.scorer.reset()
        self.window = Window(self.options.guard_window)
        self._seen: list[_Seen] = []
        self._judged: list[Judged] = []  # since the last update
        self._given: tuple[list[int], list[int]] = ([], [])  # keys that got rows since the last update

    def without_key(self, known: Sequence[Known]) -> list[str]:
        """Ids of users without a key who would get a row with these events."""
        found = [one.event.user_id for one in self.stream.new_users(known) if one.user_key is None]
        return [user_id for user_id in found if user_id is not None]

    def learn(self, known: Sequence[Known], number: int, alive: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Predict and learn events in order, as part of update `number`; the number of examples and the mean loss.

        `alive` is called after each step. ModelError where a loss is not finite: the model is unusable until `begin`,
        `restore` or `roll_back`.
        """
        users, items = self.stream.eligible(known)
        self.stream.count(known)
        self.stream.give_rows(users, items)
        self._given[0].extend(users)
        self._given[1].extend(items)
        examples = self.stream.take(known)
        rng = np.random.default_rng([self.options.seed, number])
        losses, n_before = [], len(self._judged)
        for new in self._portions(examples):
            losses.append(self._step(new, rng))
            alive()
        if losses:
            self.learner.shift(_level(np.concatenate(self._judged[n_before:])) / self.spec.scale)
        return {"examples": len(examples), "loss": round(float(np.mean(losses)), 6) if losses else 0.0}

    def _portions(self, examples: TrainingExamples) -> Iterator[TrainingExamples]:
        step = max(round(self.options.step_rows * (1 - self.options.replay_share)), 1)
        for start in range(0, len(examples), step):
            yield examples.take(slice(start, start + step))

    def _step(self, new: TrainingExamples, rng: np.random.Generator) -> float:
        share = self.options.replay_share
        older = self.buffer.draw(max(round(len(new) * share / (1 - share)), _MIN_REPLAYED) if share else 0, rng)
        rows = new if older is None else TrainingExamples.joined(new, older)
        candidate, log_q = self.pool.draw(rows.item, int(self.spec.training["n_negatives"]), rng)
        inputs = {
            "user": rows.user,
            "history": rows.history,
            "history_weight": rows.history_weight,
            "item": self.pool.rows(candidate),
        }
        logits, frozen, loss = self.learner.step(inputs, log_q, rows.label, rows.weight)
        if not (np.isfinite(loss) and np.isfinite(logits).all()):
            raise ModelError("the loss is not finite")
        n = len(new)
        judged = judge(logits[:n], frozen[:n], log_q[:n], new.label, self.spec.scale, self.spec.offset)
        self.window.add(judged)
        self._judged.append(judged)
        self._keep(_Seen({name: array[:n] for name, array in inputs.items()}, log_q[:n], new.label, judged))
        self.buffer.offer(new)
        return loss

    def _keep(self, seen: _Seen) -> None:
        """Keep the steps of the window."""
        self._seen.append(seen)
        while sum(len(one.judged) for one in self._seen[1:]) >= self.window.size:
            del self._seen[0]

    @property
    def judged(self) -> Judged:
        """How the events since the last update were predicted, in order."""
        return np.concatenate([np.zeros((0, len(COLUMNS)), np.float32), *self._judged])

    def problem(self) -> str | None:
        """Why the guard should act now, or None."""
        return self.window.problem(self.options.guard_bound)

    def write(self, folder: Path, *, is_base: bool) -> None:
        """Write an update, or a base, into an empty folder; ModelError where a weight is not finite.

        The trainer does not change until `committed`: a write can be repeated.
        """
        weights, moments = self.learner.changes(since_base=is_base)
        users, items = self._given
        if is_base:
            state = self.scorer.state
            users, items = state.rows_of_users.later, state.rows_of_items.later
        weights = dataclasses.replace(
            weights, users=np.array(users, dtype=np.int64), items=np.array(items, dtype=np.int64)
        )
        if not (weights.is_finite() and moments.is_finite()):
            raise ModelError("a weight is not finite")
        weights.write(folder / WEIGHTS)
        moments.write(folder / OPTIMIZER)
        np.savez(folder / STREAM, **self._stream_arrays(is_base=is_base))

    def _stream_arrays(self, *, is_base: bool) -> dict[str, Any]:
        if not is_base:
            return {"judged": self.judged}
        keys, rows = self.pool.later()
        return {
            "judged": self.window.judged,
            "known": np.frombuffer(self.stream.to_json(), dtype=np.uint8),
            "pool_keys": keys,
            "pool_rows": rows,
            **{f"buffer/{name}": array for name, array in self.buffer.arrays().items()},
        }

    def committed(self) -> None:
        """What was written has been committed to the chain."""
        self.learner.committed()
        self._judged, self._given = [], ([], [])

    def restore(self, folder: Path) -> None:
        """Restore the state that a base was written from; ArtifactError."""
        self.begin()
        weights = self._put_base(folder)
        arrays = read_arrays(folder / STREAM)
        try:
            self.pool.restore(arrays["pool_keys"], arrays["pool_rows"])
            self.stream.give_rows(weights.users.tolist(), weights.items.tolist())
            self.stream.from_json(arrays["known"].tobytes())
            self._restore_buffer(arrays)
            self.window.add(arrays["judged"])
        except KeyError as error:
            raise ArtifactError(f"{folder} is not a base: {error} is missing") from error

    def _put_base(self, folder: Path) -> Update:
        weights, moments = Update.read(folder / WEIGHTS), Update.read(folder / OPTIMIZER)
        self.learner.put(weights, moments)
        return weights

    def _restore_buffer(self, arrays: dict[str, Any]) -> None:
        self.buffer.restore(
            {name.removeprefix("buffer/"): array for name, array in arrays.items() if name.startswith("buffer/")}
        )

    def follow(self, folder: Path, known: Sequence[Known]) -> None:
        """Apply the next update and the events that it learned; ArtifactError."""
        weights, moments = Update.read(folder / WEIGHTS), Update.read(folder / OPTIMIZER)
        self.learner.put(weights, moments)
        self.stream.count(known)
        self.stream.give_rows(weights.users.tolist(), weights.items.tolist())
        for portion in self._portions(self.stream.take(known)):
            self.buffer.offer(portion)
        self.window.add(read_arrays(folder / STREAM)["judged"])

    def roll_back(self, bases: Sequence[Path]) -> Path | None:
        """Restore the first of these bases that predicts the guard's window within the bound, or else (None) the
        nightly model. Users' recent events are kept; the weights and the replay buffer are those of the base.
        """
        seen, bound = self._seen, self.options.guard_bound
        for folder in bases:
            self._reset_model()
            weights = self._put_base(folder)
            if _auc_of(self.learner, seen, self.spec.scale, self.spec.offset) >= _frozen_auc(seen) - bound:
                self.stream.give_rows(weights.users.tolist(), weights.items.tolist())
                self.pool.refresh()
                self._restore_buffer(read_arrays(folder / STREAM))
                return folder
        self._reset_model()
        self.pool.refresh()
        self.buffer = ReplayBuffer(self.options.buffer_rows, self.options.seed)
        self.buffer.seed_with(self.scorer, self.pool)
        return None


def _level(judged: Judged) -> float:
    """By how much the log odds of predictions should move, so that their mean becomes what was observed.

    The loss says nothing of it: a softmax stays the same when all logits move, and so their level drifts.
    """
    mean, target = (float(judged[:, COLUMNS.index(name)].mean(dtype=np.float64)) for name in ("mean", "target"))
    n = len(judged)
    aim = (n * target + _RIGHT_BEFORE * mean) / (n + _RIGHT_BEFORE)
    odds = [p / (1 - p) for p in np.clip([aim, mean], 1e-6, 1 - 1e-6)]
    return float(np.log(odds[0] / odds[1]))


def _auc_of(learner: Learner, seen: Sequence[_Seen], scale: float, offset: float) -> float:
    """Progressive AUC of a model over stored steps."""
    parts = []
    for one in seen:
        logits = learner.scores(one.inputs)
        parts.append(judge(logits, logits, one.log_q, one.label, scale, offset)[:, 0])
    auc = float(np.concatenate(parts).mean()) if parts else float("-inf")
    return auc if np.isfinite(auc) else float("-inf")


def _frozen_auc(seen: Sequence[_Seen]) -> float:
    return float(np.concatenate([one.judged[:, 1] for one in seen]).mean()) if seen else float("inf")
