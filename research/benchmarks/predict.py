"""POST /predict with 100 pairs of one user against the bare route of serving.py, in one run.

    python -m research.benchmarks.predict [--users 200000] [--items 50000] [--pairs 100] [--seconds 2] [--rounds 9]

As serving.py: one worker each, the same Postgres and client, rounds by turns, medians. The model is a DeepFM of the
pipeline's default size with random weights (its speed does not depend on them): 5 to 45 latest items a user, 20 events
of today in Postgres. Wanted: at least half of the bare route's throughput.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore
from recsys.candidates.deepfm import DeepFm
from recsys.candidates.deepfm_samples import Vocabularies
from recsys.candidates.deepfm_serving import write_for_serving
from recsys.candidates.deepfm_state import DeepFmState
from recsys.candidates.deepfm_training import initial_weights, network_config
from recsys.features.deepfm_fields import Vocabulary
from recsys.keys import KeyIndex
from recsys.storage import lists
from research.benchmarks.serving import filled, free_port, measure, wait

CUT_AT = 1_789_000_000_000_000  # before the events that serving.py puts into user_recent


def write_model(root: str, n_users: int, n_items: int, **parameters: int) -> None:
    """The artifact deepfm_serving/1 for a catalogue of this size, of a DeepFM with these parameters."""
    users, items = (np.arange(1, n + 1, dtype=np.int32) for n in (n_users, n_items))
    categories = np.arange(1, 201, dtype=np.int32)
    vocabularies = Vocabularies(Vocabulary(users), Vocabulary(items), Vocabulary(categories), Vocabulary(categories))
    model, rng = DeepFm(**parameters), np.random.default_rng(0)
    n_events = rng.integers(5, 46, n_users, dtype=np.int32)
    start = np.concatenate([[0], np.cumsum(n_events)])
    state = DeepFmState(
        weights=initial_weights(network_config(vocabularies, model.dim, model.hidden), rng),
        vocabularies=vocabularies,
        items=KeyIndex(items),
        available=np.ones(n_items, dtype=bool),
        item_rows=np.stack([items, *(rng.integers(0, 14, n_items) for _ in range(5))], axis=1).astype(np.int32),
        popularity=1.0 / items,
        users=KeyIndex(users),
        n_events=n_events,
        history_start=start,
        history=rng.integers(1, n_items + 1, start[-1], dtype=np.int32),
        history_weight=np.repeat(n_events**-0.5, n_events).astype(np.float32),
        mean_event_weight=np.asarray(1.0),
        calibration=np.array([1.0, 0.0]),
    )
    model._use(state, CUT_AT)
    with ArtifactStore(root).writing("deepfm_serving", "1", made_by="benchmark") as (folder, _):
        write_for_serving(model, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()
    with filled(arguments.users, arguments.items) as (url, engine, folder):
        with engine.begin() as connection:
            connection.execute(sa.text("""update publications set models = models || '{"deepfm": "deepfm/1"}'"""))
        version = lists.find(engine, "ranked", "1")
        write_model(str(folder / "artifacts"), arguments.users, arguments.items)
        compare(url, str(folder / "artifacts"), version.list_version_id, arguments)


def compare(url: str, artifacts: str, list_version_id: int, arguments: argparse.Namespace) -> None:
    """Start both, measure them by turns, print the medians."""
    service_port, bare_port = free_port(), free_port()
    environment = os.environ | {"DATABASE_URL": url, "API_PORT": str(service_port), "ARTIFACT_ROOT": artifacts}
    service = subprocess.Popen([sys.executable, "-m", "fast_api_service"], env=environment)
    bare = [sys.executable, str(Path(__file__).with_name("serving.py")), "--bare", url, str(bare_port)]
    peer = subprocess.Popen([*bare, str(list_version_id)])
    pick = random.Random(2)

    def one() -> bytes:
        user = 7 * pick.randint(1, arguments.users)
        items = [1000 + pick.randint(1, arguments.items) for _ in range(arguments.pairs)]
        body = f'{{"user_ids": {[user] * len(items)}, "item_ids": {items}}}'.encode()
        head = (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        )
        return head % len(body) + body

    made = [one() for _ in range(2000)]  # beforehand, because the client shares the machine

    def predict() -> bytes:
        return pick.choice(made)

    def row() -> bytes:
        return b"GET /row/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % pick.randint(1, arguments.users)

    try:
        wait(f"http://127.0.0.1:{service_port}/ready")
        wait(f"http://127.0.0.1:{bare_port}/row/1")
        wait_for_model(service_port)
        measure({"bare row": (bare_port, row, peer), "predict": (service_port, predict, service)}, arguments)
        memory = psutil.Process(service.pid).memory_info()
        own = (memory.rss - memory.shared) / 2**20  # without the pages of files, which all workers share
        print(f"service {memory.rss / 2**20:.0f} MiB resident, {own:.0f} MiB of its own")
    finally:
        for process in (service, peer):
            process.terminate()
            process.wait(20)


def wait_for_model(port: int) -> None:
    started = time.monotonic()
    while httpx.get(f"http://127.0.0.1:{port}/model/info").json()["scorer"]["loaded"] is None:
        if time.monotonic() - started > 60:
            raise TimeoutError("the model was not loaded")
        time.sleep(0.05)
    print(f"model in service {time.monotonic() - started:.1f} s after the lists")


if __name__ == "__main__":
    main()
