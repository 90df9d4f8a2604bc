"""Protocol B6 on a small generated pair of files, and on the real one where it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys import settings
from recsys.errors import InputError
from recsys.steps.benchmarks import sessions
from recsys.steps.benchmarks.result import Result

N_ITEMS, N_SESSIONS = 300, 900


def walks(n: int, seed: int) -> list[list[int]]:
    """Sessions that go on by a few items around a circle, and now and then return to the click before the last."""
    random, found = np.random.default_rng(seed), []
    for _ in range(n):
        session = [int(random.integers(N_ITEMS))]
        for step in random.integers(1, 9, random.integers(2, 7)):
            is_return = len(session) > 1 and step == 1
            session.append(session[-2] if is_return else int(session[-1] + step) % N_ITEMS)
        found.append([key + 1 for key in session])
    return found


def write(folder: Path, *, with_ids: bool = True) -> Path:
    pd.DataFrame({"items": walks(N_SESSIONS, 0)}).to_parquet(folder / sessions.TRAINING)
    rows = [
        (number, session[:end], session[end])
        for number, session in enumerate(walks(150, 1))
        for end in range(len(session) - 1, 0, -1)
    ]
    test = pd.DataFrame(rows, columns=["session_id", "prefix", "target"])
    (test if with_ids else test.drop(columns="session_id")).to_parquet(folder / sessions.TEST)
    return folder


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return sessions.run(settings.load(), write(tmp_path_factory.mktemp("pair")), quick=True)


def test_the_quick_form_runs_and_checks_itself(result: Result) -> None:
    assert result.wrong == []
    assert len(result.checks) == 2
    rows = {row["system"]: row for row in result.tables["All clicks"]}
    assert rows[sessions.NEIGHBOURS]["HR@20"] > rows[sessions.RULES]["HR@20"] > rows["popularity of all time"]["HR@20"]
    assert rows[sessions.NEIGHBOURS]["HR@20 from"] > 0  # better than the rules beyond chance
    assert rows[sessions.RULES]["HR@20 - rules"] == 0
    for row in rows.values():
        assert row["HR@20 low"] <= row["HR@20"] <= row["HR@20 high"]
        assert row["MRR@20"] <= row["HR@20"]


def test_new_items_are_a_part_of_the_prefixes(result: Result) -> None:
    everything, new = result.tables["All clicks"], result.tables["New items"]
    assert 0 < new[0]["prefixes"] < everything[0]["prefixes"]
    assert [row["system"] for row in new] == [row["system"] for row in result.tables["Time of an answer"]]


def test_without_session_ids_the_test_cannot_be_added_to_the_index(tmp_path: Path) -> None:
    found = sessions.run(settings.load(), write(tmp_path, with_ids=False), quick=True)
    assert found.wrong == []
    assert not any("so far" in row["system"] for row in found.tables["All clicks"])


def test_a_folder_without_the_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train_sessions\.parquet"):
        sessions.run(settings.load(), tmp_path, quick=True)


def test_a_rank_counts_what_is_better_and_not_masked() -> None:
    keys, scores = np.array([3, 5, 7, 9], np.int32), np.array([1, 2, 2, 4], np.float32)
    none = keys[:0]
    assert [sessions.rank_of(key, keys, scores, none) for key in (9, 5, 7, 3, 4)] == [1, 2, 3, 4, np.inf]
    assert sessions.rank_of(7, keys, scores, np.array([9, 5], np.int32)) == 1


def test_only_sessions_that_are_over_are_added(tmp_path: Path) -> None:
    split = sessions.Split.read(write(tmp_path))
    first = int(np.flatnonzero(split.session == split.session[0])[-1]) + 1  # type: ignore[index]
    assert split.sessions_before(first - 1) == []
    (whole,) = split.sessions_before(first)
    assert whole.tolist() == [*split.prefixes[0].tolist(), split.targets[0]]


@pytest.mark.slow
@pytest.mark.skipif("RECSYS_DATA_DIR" not in os.environ, reason="RECSYS_DATA_DIR is not set")
def test_the_real_sessions_keep_their_level() -> None:
    found = sessions.run(settings.load(), Path(os.environ["RECSYS_DATA_DIR"]) / "retailrocket-sessions", quick=True)
    assert found.wrong == []
    assert found.headline["hr@20"] > 0.3  # of the last 20,000 training sessions alone
