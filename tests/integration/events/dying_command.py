"""`python -m tests.integration.events.dying_command POINT COMMAND …`: `recsys COMMAND …`, killed at a point."""

from __future__ import annotations

import sys
from pathlib import Path

from recsys import cli
from recsys.events import archive
from recsys.events.kafka import relay, sink
from recsys.events.kafka.client import Partitions
from recsys.events.kafka.log import KafkaLog
from recsys.events.postgres_log import PostgresLog
from tests.integration.dying import Point, die_at

RELAY = {
    "the outbox is read": Point(relay, "_next", "after"),
    "events are delivered": Point(KafkaLog, "deliver", "after"),
    "places are written and not committed": Point(relay, "settle", "after"),
    "the offset is written and not committed": Point(relay, "keep_offset", "after"),
    "all is committed": Point(relay, "step", "after"),
}
SINK = {
    "messages are read": Point(Partitions, "fetch", "after"),
    "rows are committed": Point(KafkaLog, "_settle", "after"),
    "poison is not yet in the dead letters": Point(KafkaLog, "to_dead_letters", "before"),
    "poison is in the dead letters": Point(KafkaLog, "to_dead_letters", "after"),
    "the offset is written and not committed": Point(sink, "keep_offset", "after"),
    "all is committed": Point(sink, "step", "after"),
}
ARCHIVE = {
    "a portion is read": Point(archive, "_portion", "after"),
    "half of a file is written": Point(archive.pq, "write_table", "half"),
    "a file is written": Point(archive, "sync", "before"),
    "all files are written": Point(archive, "_write", "after"),
    "how far it is stands beside": Point(Path, "replace", "before"),
    "how far it is is in place": Point(archive, "_save", "after"),
}
REPLAY = {
    "a batch is not yet appended": Point(PostgresLog, "append", "before"),
    "a batch is appended": Point(PostgresLog, "append", "after"),
}

if __name__ == "__main__":
    point, command, *_ = sys.argv[1:]
    die_at({"relay": RELAY, "sink": SINK, "archive": ARCHIVE, "replay": REPLAY}[command][point], 1)
    sys.argv[1:] = sys.argv[2:]
    cli.app()
