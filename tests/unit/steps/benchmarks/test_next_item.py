"""The next item on a ring, where the answer is known: the harness finds it, and its checks find what is wrong."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.candidates import registry
from recsys.data import sequences
from recsys.data.sequences import SequenceTable
from recsys.errors import InputError, ModelError
from recsys.evaluation import report
from recsys.ranking.ranker import RankerParams
from recsys.settings import Settings
from recsys.steps.benchmarks import command, leaks, next_item, published
from recsys.steps.evaluate import TWO_STAGE, Plan
from recsys.steps.fits import Fits
from recsys.types import CandidateGenerator, Catalogue, Interactions, Task

N_ITEMS = 60
RANKER = RankerParams(losses=("Logloss",), iterations=40, n_models=1, threads=2, max_negatives=20)
PLAN = Plan(
    generators=["popular", "next_item", "covisitation"],
    ranker=RANKER,
    cuts=1,
    days=next_item.PLACE_DAYS,
    training_windows=2,
    tasks=(Task.DISCOVERY,),
)


def ring(n_users: int = 400, seed: int = 3) -> SequenceTable:
    """Everybody goes round the ring from somewhere, item after item, and skips one now and then."""
    random = np.random.default_rng(seed)
    lines = []
    for user in range(n_users):
        steps = 1 + (random.random(random.integers(6, 12)) < 0.2)
        items = (random.integers(N_ITEMS) + np.cumsum(steps)) % N_ITEMS
        lines.append(f"u{user} " + " ".join(f"i{item}" for item in items))
    return sequences.parse(lines)


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> list[next_item.Column]:
    return next_item.measured(ring(), PLAN, tmp_path_factory.mktemp("ring"))


def test_what_follows_is_found_in_every_column_and_by_direction_alone_first(columns: list[next_item.Column]) -> None:
    hit = {c.name: {n: one.values["recall@10"].mean() for n, one in c.by_system.items()} for c in columns}
    first = {c.name: {n: one.values["ndcg@10"].mean() for n, one in c.by_system.items()} for c in columns}
    assert list(hit) == ["order-blind", "strict", "refit"]
    for name in hit:
        assert hit[name]["next_item"] > 0.95
        assert hit[name][TWO_STAGE] > 0.95
        assert hit[name]["popular"] < 0.4
    assert first["strict"]["next_item"] > 0.85
    # made symmetric, it cannot tell what comes from what came, but for the user's own items, which are masked
    assert first["order-blind"]["next_item"] < first["strict"]["next_item"] - 0.03


def test_columns_share_the_fits_of_equal_cuts(tmp_path: Path) -> None:
    next_item.measured(ring(100), PLAN, tmp_path)
    kept = [path.name for path in (tmp_path / "fits").iterdir()]
    # strict is of places 4, 3 and 2 from the end, refit of 3, 2 and 1; what is symmetric is order-blind's own
    assert sum(name.startswith("popular-") for name in kept) == 4
    assert sum(name.startswith("next_item-") for name in kept) == 4 + 3


def test_the_next_film_after_an_instant_is_found(tmp_path: Path) -> None:
    table = ring()
    at = sequences.END_AT - (table.place + 1) * 20 * sequences.PLACE + table.user
    column = next_item.time_split(table, at, PLAN, tmp_path)
    labels = column.by_system[TWO_STAGE].ground.labels
    assert labels.n_labels.max() == 1
    assert column.by_system["next_item"].values["recall@10"].mean() > 0.95


def test_films_come_in_the_order_of_their_users_with_the_earliest_possible_instant(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "UserID": [7, 7, 5, 7],
            "MovieID": [30, 10, 10, 20],
            "pos_in_user": [2, 1, 1, 0],
            "Timestamp": [None, None, 50.0, 10.0],
            "timestamp_lo": [12.0, None, 50.0, 10.0],
            "timestamp_hi": [20, 15, 50, 10],
        }
    )
    pq.write_table(rows, tmp_path / "ratings.parquet")
    table, at = next_item.films(tmp_path / "ratings.parquet")
    assert [table.user_ids[user] for user in table.user] == ["5", "7", "7", "7"]
    assert [table.item_ids[item] for item in table.item] == ["10", "20", "10", "30"]
    assert at.tolist() == [50_000_000, 10_000_000, 15_000_000, 15_000_000]


def test_the_checks_hold(columns: list[next_item.Column]) -> None:
    found = next_item.checks(columns, None, seed=1)
    assert [right for _, right in found] == [True] * 3


def test_lists_that_fit_any_labels_are_found(columns: list[next_item.Column]) -> None:
    """As if the two stages proposed what the others bought: with labels shuffled, too, they are above popularity."""
    strict = columns[1]
    popular = strict.by_system["popular"]
    narrow = popular.ground.labels.of_items(np.arange(10))
    rows = np.isin(popular.ground.labels.user_key, narrow.user_key)
    ground = replace(popular.ground, labels=narrow, expected=None)
    everything = np.tile(np.arange(10, dtype=np.int32), (len(narrow), 1))
    cheat = report.Measured(ground, TWO_STAGE, everything, 0.0)
    honest = report.Measured(ground, "popular", popular.lists[rows], 0.0)
    outcome = next_item.Outcome(measured=[honest, cheat])
    (check,) = next_item.checks([next_item.Column("refit", strict.data, outcome)], None, seed=1)
    assert not check[1]


def test_another_popularity_than_the_known_one_is_found(columns: list[next_item.Column]) -> None:
    known = published.Known("ring", 400, N_ITEMS, 0, (0.9, 0.9), [])
    found = next_item.checks(columns, known, seed=1)
    assert [text for text, right in found if not right] == [
        text for text, _ in found if "published 0.9000/0.9000" in text
    ]


def test_a_planted_leak_is_found(tmp_path: Path) -> None:
    table = ring(200)
    honest = Fits(PLAN.generator_params, {})
    assert leaks.what_leaks(table, PLAN.generators, honest, tmp_path / "honest", seed=1) == []
    whole: dict[str, Interactions] = {}

    def leaking(name: str, history: Interactions, catalogue: Catalogue) -> CandidateGenerator:
        folder = "as-it-is" if not whole else "changed"
        data = sequences.Dataset(tmp_path / "leak" / folder)
        if name == "covisitation":
            whole[folder] = data.interactions()
            return registry.make(name).fit(whole[folder], catalogue)
        return honest(name, history, catalogue)

    assert leaks.what_leaks(table, PLAN.generators, leaking, tmp_path / "leak", seed=1) == ["covisitation"]


def test_rows_have_intervals_and_the_difference_to_the_best_stage(columns: list[next_item.Column]) -> None:
    rows = next_item.rows_of(columns, seed=1)
    assert len(rows) == 3 * 4
    for row in rows:
        assert row["NDCG@10 low"] <= row["NDCG@10"] <= row["NDCG@10 high"]
        assert row["from"] <= row["difference"] <= row["to"]
        assert (row["difference"] == 0) == (row["system"] == row["best stage"])


def test_a_part_of_the_users_keeps_their_sequences() -> None:
    table = ring(50)
    part = next_item.thinned(table, 20, seed=5)
    assert len(part.user_ids) == 20
    for at, user in enumerate(part.user_ids):
        whole = table.item[table.user == list(table.user_ids).index(user)]
        ids = [part.item_ids[item] for item in part.item[part.user == at]]
        assert ids == [table.item_ids[item] for item in whole]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["u a b c"], "longer than four items"),
        (["u"], "has no item"),
        ([], "holds no sequence"),
        (["u a a a a a a", "v b b b b b b"], "nobody's item at some place from the end is new to them"),
    ],
)
def test_what_cannot_be_measured_is_said(lines: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        command.run("b1", path)


def test_without_a_file_the_error_says_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RECSYS_DATA_DIR", raising=False)
    with pytest.raises(InputError, match="--input FILE, or RECSYS_DATA_DIR"):
        command.run("b1")
    monkeypatch.setenv("RECSYS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"Beauty\.txt\.gz does not exist; give --input FILE"):
        command.run("b1")
    with pytest.raises(InputError, match="no benchmark is called 'b9'; there are b1"):
        command.run("b9", tmp_path)


@pytest.fixture
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    own = Settings(local_dir=tmp_path, mlflow_tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(command.settings_module, "load", lambda: own)
    return own


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's and its dependencies' warnings about themselves
def test_the_command_measures_logs_and_keeps(
    own_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ring(300)
    lines = [
        f"{user} " + " ".join(table.item_ids[i] for i in table.item[table.user == at])
        for at, user in enumerate(table.user_ids)
    ]
    path, results = tmp_path / "ring.txt", tmp_path / "RESULTS.md"
    path.write_text("\n".join(lines))
    results.write_text("# Results\n")
    monkeypatch.setattr(command.result, "RESULTS", results)
    monkeypatch.setattr(command.result.append, "__defaults__", (results,))
    headline = command.run("b1", path, quick=True)
    assert results.read_text() == "# Results\n"  # a quick run says nothing of accuracy
    assert headline["strict"]["HR@10"] > 0.8
    shown = capsys.readouterr().out
    assert "right: strict: labels shuffled over users" in shown
    assert "WRONG" not in shown
    found = command.run("b1", path, quick=True, keep=False, plots=tmp_path / "plots")
    assert found == headline  # the same seed, the same figures
    assert {plot.stem for plot in (tmp_path / "plots").glob("*.png")} == {f"b1_ndcg_{column}" for column in headline}
    import mlflow

    runs = mlflow.MlflowClient(own_settings.mlflow_tracking_uri).search_runs(["1"])
    assert len(runs) == 2
    assert runs[0].data.metrics["strict.two-stage.recall_at_10"] == pytest.approx(headline["strict"]["HR@10"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif("RECSYS_DATA_DIR" not in os.environ, reason="needs the data sets that RECSYS_DATA_DIR points to")
@pytest.mark.parametrize("name", ["b1", "b2", "b4"])
def test_the_quick_form_runs_on_the_real_files(name: str, own_settings: Settings) -> None:
    try:
        headline = command.run(name, quick=True)
    except ModelError as error:
        pytest.fail(str(error))
    assert headline
