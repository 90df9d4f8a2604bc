"""`python -m tests.integration.updater.dying_updater POINT N`: the updater, ended by SIGKILL when it is at a point for
the N-th time.
"""

from __future__ import annotations

import sys

from recsys.events.kafka.log import KafkaLog
from recsys.events.postgres_log import PostgresLog
from recsys.serving.update import Update
from recsys.settings import Settings
from recsys.updater import __main__, new_users, store
from recsys.updater.store import TrainingStore
from recsys.updater.trainer import Trainer
from tests.integration.dying import Point, die_at

LOG = KafkaLog if Settings().kafka_bootstrap_servers else PostgresLog

POINTS = {
    "events are read": Point(LOG, "read", "after"),
    "users are to have keys": Point(new_users, "_give", "before"),
    "users have keys that are not committed": Point(new_users, "_give", "after"),
    "keys are read": Point(Trainer, "learn", "before"),
    "a portion is learned": Point(Trainer, "_step", "after"),
    "all is learned": Point(Trainer, "learn", "after"),
    "half of the artifact is written": Point(Update, "write", "after"),
    "the artifact is not yet in place": Point(Trainer, "write", "after"),
    "a base is restored": Point(Trainer, "restore", "after"),
    "an update is followed": Point(Trainer, "follow", "after"),
    "the artifact is in place": Point(TrainingStore, "commit", "before"),
    "the row is written and not committed": Point(store, "_commit", "after"),
    "the row is committed": Point(Trainer, "committed", "before"),
    "all is committed": Point(Trainer, "committed", "after"),
}


if __name__ == "__main__":
    die_at(POINTS[sys.argv[1]], int(sys.argv[2]))
    __main__.main()
