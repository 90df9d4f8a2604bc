"""Progressive AUC on replayed real data: the model of a night, frozen, beside the same one that goes on learning.

    RECSYS_DATA_DIR=DATA python -m research.online_replay [online-retail ml-1m] [--learning-rate 0.002] [--plot FILE]

DATA holds `online-retail/online_retail.parquet` and `ml-1m/`. The first 80 % of the events in time train DeepFM as at
night; the last 20 % come one after another, as the updater reads them: 1,024 at a time, each predicted by both models
against the same sampled items before it is learned. Prints a table, and writes the curves (--json) and their plot.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from recsys.artifacts import ArtifactStore
from recsys.candidates.deepfm import DeepFm
from recsys.candidates.deepfm_serving import write_for_serving
from recsys.data.dataset import Dataset
from recsys.settings import UpdaterSettings
from recsys.steps.benchmarks.replay_models import stream
from recsys.updater.trainer import Trainer
from recsys.updater.validation import curve

SHARE = 0.8  # of the events, for the night
SOURCES = {"online-retail": ("online-retail", "online-retail/online_retail.parquet"), "ml-1m": ("movielens", "ml-1m")}
N_POINTS = 40  # of a curve


def prepared(name: str, folder: Path, port: int) -> Dataset:
    """The data set of a source, by the pipeline's own import and preparation, with a Postgres of its own."""
    source, path = SOURCES[name]
    env = {k: v for k, v in os.environ.items() if k not in {"DATABASE_URL", "ARTIFACT_ROOT", "MLFLOW_TRACKING_URI"}}
    env |= {
        "RECSYS_LOCAL_DIR": str(folder),
        "ARTIFACT_ROOT": str(folder / "artifacts"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PG_PORT": str(port),
    }
    recsys = [sys.executable, "-m", "recsys.cli"]
    try:
        subprocess.run([*recsys, "migrate"], env=env, check=True)
        subprocess.run([*recsys, "import", source, f"{os.environ['RECSYS_DATA_DIR']}/{path}"], env=env, check=True)
        subprocess.run([*recsys, "prepare-dataset"], env=env, check=True)
    finally:
        stop = [sys.executable, "-m", "recsys.storage.embedded", "--dir", str(folder / "postgres"), "--stop"]
        subprocess.run(stop, env=env, check=False)
    store = ArtifactStore(str(folder / "artifacts"))
    return Dataset(store.open(f"dataset/{store.versions('dataset')[-1]}")[0])


def replay(data: Dataset, folder: Path, options: UpdaterSettings) -> dict[str, Any]:
    """Train on the night, let the rest come; how well it was predicted."""
    events = data.interactions()
    cut_at = int(events.occurred_at[int(len(events) * SHARE)])
    night, day = events.before(cut_at), events.between(cut_at, events.cut_at)
    if not folder.exists():
        part = folder.with_suffix(".part")
        part.mkdir()
        write_for_serving(DeepFm().fit(night, data.catalogue(cut_at)), part)
        part.rename(folder)
    trainer = Trainer(folder, data.meta.event_weights, options)
    known = stream(day, data.catalogue())
    judged, started = [], time.monotonic()
    for number, start in enumerate(range(0, len(known), options.batch_events), 1):
        trainer.learn(known[start : start + options.batch_events], number)
        judged.append(trainer.judged)
        trainer.committed()
    rows = np.concatenate(judged)
    updated, frozen = curve(judged, max(len(rows) // N_POINTS, 1))
    means = rows.mean(axis=0, dtype=np.float64)
    return {
        "events": len(rows),
        "auc": means[0],
        "frozen_auc": means[1],
        "logloss": means[2],
        "frozen_logloss": means[3],
        "calibration": means[4] / means[6],
        "frozen_calibration": means[5] / means[6],
        "night_events": len(night),
        "events_per_s": len(known) / (time.monotonic() - started),
        "curve": updated.tolist(),
        "frozen_curve": frozen.tolist(),
    }


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """The curves side by side."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(1, len(results), figsize=(5.2 * len(results), 3.4), squeeze=False)
    for axes, (name, result) in zip(all_axes[0], results.items(), strict=True):
        x = (np.arange(len(result["curve"])) + 0.5) / len(result["curve"]) * result["events"] / 1000
        axes.plot(x, result["curve"], label="updated", color="#1f6feb")
        axes.plot(x, result["frozen_curve"], label="frozen", color="#8b949e")
        axes.set_title(f"{name}: {result['auc']:.3f} against {result['frozen_auc']:.3f}", fontsize=10)
        axes.set_xlabel("thousand events after the night")
        axes.set_ylabel("progressive AUC")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(SOURCES))
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument("--replay-share", type=float, default=0.25)
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--work", type=Path, help="a folder that keeps data and models for the next call")
    parser.add_argument("--port", type=int, default=5497)
    args = parser.parse_args()
    options = UpdaterSettings(learning_rate=args.learning_rate, replay_share=args.replay_share)
    results = {}
    for name in args.names:
        folder = (args.work or Path(tempfile.mkdtemp(prefix="replay-", dir="/var/tmp"))) / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        folder.parent.chmod(0o755)
        try:
            store = ArtifactStore(str(folder / "artifacts"))
            versions = store.versions("dataset")
            data = Dataset(store.open(f"dataset/{versions[-1]}")[0]) if versions else prepared(name, folder, args.port)
            one = results[name] = replay(data, folder / "served", options)
        finally:
            if args.work is None:
                shutil.rmtree(folder.parent, ignore_errors=True)
        print(
            f"| {name} | {one['night_events']:,} | {one['events']:,} | {one['frozen_auc']:.4f} | {one['auc']:.4f} "
            f"| {one['frozen_logloss']:.4f} | {one['logloss']:.4f} | {one['frozen_calibration']:.2f} "
            f"| {one['calibration']:.2f} | {one['events_per_s']:,.0f} |",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    if args.plot:
        plot(results, args.plot)


if __name__ == "__main__":
    main()
