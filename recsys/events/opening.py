"""Opens the log of the settings."""

from __future__ import annotations

from recsys.events.log import EventLog, Transactions
from recsys.events.postgres_log import PostgresLog
from recsys.settings import Settings


def open_log(settings: Settings, connections: Transactions, group: str = "recsys-trainer") -> EventLog:
    """Kafka where its servers are set, else Postgres; InputError for options that its client rejects.

    `group`: the consumer group. Kafka's client is imported only where it is used.
    """
    if not settings.kafka_bootstrap_servers:
        return PostgresLog(connections)
    from recsys.events.kafka.client import kafka_of
    from recsys.events.kafka.log import KafkaLog

    kafka = kafka_of(settings)
    assert kafka is not None  # noqa: S101 - the servers are set
    return KafkaLog(kafka, connections, group=group, outbox=settings.event_outbox, synonyms=settings.event_synonyms)
