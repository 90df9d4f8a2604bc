"""`python -m tests.integration.runtime.dying_service POINT`: the service, ended by SIGKILL when it is at a point."""

from __future__ import annotations

import sys

from fast_api_service import __main__ as service
from fast_api_service.events.appends import AppendTogether
from recsys.events import postgres_log
from recsys.events.kafka import log
from recsys.events.kafka.log import KafkaLog
from recsys.settings import Settings
from tests.integration.dying import Point, die_at

POSTGRES = {
    "events have come": Point(AppendTogether, "append", "before"),
    "rows are written and not committed": Point(postgres_log, "append", "after"),
    "rows are committed": Point(postgres_log.PostgresLog, "append", "after"),
    "all is done but the answer": Point(AppendTogether, "append", "after"),
}
KAFKA = {
    "events have come": Point(AppendTogether, "append", "before"),
    "they are judged": Point(KafkaLog, "deliver", "before"),
    "Kafka has them": Point(KafkaLog, "deliver", "after"),
    "rows are written and not committed": Point(log, "settle", "after"),
    "rows are committed": Point(KafkaLog, "append", "after"),
}

if __name__ == "__main__":
    points = KAFKA if Settings().kafka_bootstrap_servers and not Settings().event_outbox else POSTGRES
    die_at(points[sys.argv[1]], 1)
    service.main([])
