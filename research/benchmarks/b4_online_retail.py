"""Protocol B4 on Online Retail: from the invoice file to the table, with a Postgres, artifacts and MLflow of its own.

    python -m research.benchmarks.b4_online_retail PATH/TO/online_retail.parquet --out results/
    python -m research.benchmarks.b4_online_retail PATH --generators popular als covisitation ease

Prints NDCG@10 by cut and all metrics by segment for popularity, each generator alone and the two stages.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the invoice lines, Parquet or CSV")
    parser.add_argument("--out", type=Path, help="where report.json and report.csv go")
    parser.add_argument("--generators", nargs="+", help="the settings' own by default")
    parser.add_argument("--ranker", type=json.loads, default={}, help='e.g. \'{"losses": ["Logloss"], "threads": 2}\'')
    parser.add_argument("--cuts", type=int, default=4)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="b4-", dir="/var/tmp"))
    env = {k: v for k, v in os.environ.items() if k not in {"DATABASE_URL", "ARTIFACT_ROOT", "MLFLOW_TRACKING_URI"}}
    env |= {
        "RECSYS_LOCAL_DIR": str(folder),
        "ARTIFACT_ROOT": str(folder / "artifacts"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PG_PORT": env.get("PG_PORT", "5498"),
        "RECSYS_RANKER_PARAMS": json.dumps(args.ranker),
    }
    if args.generators:
        env["RECSYS_GENERATORS"] = json.dumps(args.generators)
    recsys = [sys.executable, "-m", "recsys.cli"]
    out = ["--out", str(args.out.resolve())] if args.out else []
    try:
        subprocess.run([*recsys, "migrate"], env=env, check=True)
        subprocess.run([*recsys, "import", "online-retail", str(args.path)], env=env, check=True)
        subprocess.run([*recsys, "prepare-dataset"], env=env, check=True)
        subprocess.run([*recsys, "evaluate", "--cuts", str(args.cuts), *out], env=env, check=True)
    finally:
        stop = [sys.executable, "-m", "recsys.storage.embedded", "--dir", str(folder / "postgres"), "--stop"]
        subprocess.run(stop, env=env, check=False)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
