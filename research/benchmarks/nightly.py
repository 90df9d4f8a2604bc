"""The whole nightly pipeline at RetailRocket's size, each step in a process of its own, with its time and memory.

    python -m research.benchmarks.nightly                   # RetailRocket's size, generated
    python -m research.benchmarks.nightly --scale 0.02      # a smaller shop, to try it

Uses an embedded Postgres, artifacts and MLflow under a folder of its own, and removes it at the end (--keep
leaves it). Prints one row a step and the sum; the bounds are 40 minutes and 12 GiB at the peak.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

STEPS = [
    "prepare-dataset",
    "default-recommendations",
    "i2i-recommendations",
    "index-sessions",
    "train-als",
    "personal-recommendations",
    "similar-items",
    "train-deepfm",
    "train-sequence",
    "train-ranker",
    "rank-users",
    "user-history",
    "publish",
]


def measured(command: list[str], env: dict[str, str]) -> tuple[float, float, str]:
    """Run a command; its seconds, the peak memory (GiB, of the process and its children), and its output."""
    started = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in family))
            except psutil.Error:
                pass
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - started, peak / 2**30, output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="1 = RetailRocket's size")
    parser.add_argument("--folder", type=Path, help="where the state goes; a temporary folder by default")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="nightly-", dir="/var/tmp"))
    folder.mkdir(parents=True, exist_ok=True)
    env = {k: v for k, v in os.environ.items() if k not in {"DATABASE_URL", "ARTIFACT_ROOT", "MLFLOW_TRACKING_URI"}}
    env |= {
        "RECSYS_LOCAL_DIR": str(folder),
        "ARTIFACT_ROOT": str(folder / "artifacts"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PG_PORT": env.get("PG_PORT", "5499"),
    }
    recsys = [sys.executable, "-m", "recsys.cli"]
    users, items, events = (max(int(n * args.scale), 100) for n in (1_400_000, 235_000, 2_760_000))
    files = folder / "shop"
    size = ["--users", str(users), "--items", str(items), "--events", str(events)]
    try:
        prepared = (("generate", [str(files), *size]), ("migrate", []), ("import", ["generated", str(files)]))
        for name, command in prepared:
            seconds, peak, _ = measured([*recsys, name, *command], env)
            print(f"{name:26} {seconds:8.1f} s {peak:6.2f} GiB   (not counted)", flush=True)
        rows = []
        for name in STEPS:
            seconds, peak, output = measured([*recsys, name], env)
            rows.append((name, seconds, peak))
            result = json.loads(output) if output.strip().startswith("{") else {}
            facts = {k: v for k, v in result.items() if k in ("n_rows", "accepted", "reason", "publication_id")}
            print(f"{name:26} {seconds:8.1f} s {peak:6.2f} GiB   {facts}", flush=True)
        total, most = sum(row[1] for row in rows), max(row[2] for row in rows)
        print(f"{'nightly, in all':26} {total:8.1f} s {most:6.2f} GiB")
        print(f"share of the bounds: {total / 2400:.2f} of 40 minutes, {most / 12:.2f} of 12 GiB")
    finally:
        subprocess.run(
            [sys.executable, "-m", "recsys.storage.embedded", "--dir", str(folder / "postgres"), "--stop"],
            env=env,
            check=False,
        )
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
