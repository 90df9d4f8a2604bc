"""The clients of Kafka: a producer that returns offsets, and a consumer that reads partitions from given offsets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from recsys.errors import InputError
from recsys.events.log import LogAwayError, LogGapError
from recsys.settings import Settings

Place = tuple[int, int]  # partition and offset of a message
Ends = dict[int, tuple[int, int]]  # by partition: the low and the high watermark

_ANSWER_S: Final = 5.0
_BACKOFF_S: Final = 1.0  # for so long after a failed delivery, further ones fail at once
_LOOK_S: Final = 0.1
_TOPIC_LOOK_S: Final = 30.0  # how often new partitions are discovered
# By default each client would reconnect, and log the failure, twenty times a second while a broker is away.
_QUIET: Final = {"socket.keepalive.enable": True, "log_level": 3, "reconnect.backoff.ms": 500}
# The guarantees of the log depend on these: RECSYS_KAFKA_OPTIONS may not change them.
_FIXED_OPTIONS: Final = {
    "enable.idempotence", "acks", "request.required.acks", "enable.auto.commit", "enable.auto.offset.store",
    "auto.offset.reset", "enable.partition.eof", "group.id", "bootstrap.servers", "metadata.broker.list",
}  # fmt: skip


@dataclass(frozen=True)
class Kafka:
    """Bootstrap servers, topic, and further settings of librdkafka, which may contain secrets."""

    servers: str
    topic: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if fixed := _FIXED_OPTIONS & self.options.keys():
            raise InputError(f"RECSYS_KAFKA_OPTIONS: {', '.join(sorted(fixed))} cannot be set, the log depends on it")

    @property
    def dead_letters(self) -> str:
        """The topic of messages that are not valid events."""
        return f"{self.topic}.dlq"

    def producer(self) -> dict[str, Any]:
        """Settings of an idempotent producer: in order, acknowledged by all in-sync replicas."""
        return {
            "linger.ms": 5,
            "compression.type": "zstd",
            "message.timeout.ms": int(_ANSWER_S * 1000),
            "queue.buffering.max.kbytes": 65_536,
            "partitioner": "murmur2_random",  # as Java's clients
            **_QUIET,
            **self.options,
            "bootstrap.servers": self.servers,
            "enable.idempotence": True,
            "acks": "all",
        }

    def consumer(self, group: str) -> dict[str, Any]:
        """Settings of a consumer that commits no offsets; an offset out of range is an error, not a reset."""
        return {
            **_QUIET,
            "fetch.wait.max.ms": 50,  # delays the detection of a partition's end
            **self.options,
            "bootstrap.servers": self.servers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
        }


def kafka_of(settings: Settings) -> Kafka | None:
    """Kafka as configured, None where it is not the log; InputError."""
    if not settings.kafka_bootstrap_servers:
        return None
    return Kafka(settings.kafka_bootstrap_servers, settings.kafka_topic, settings.kafka_options)


class Deliveries:
    """A producer, and the thread that polls its delivery reports."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._producer = _made(Producer, kafka.producer())
        self._backoff_until = 0.0
        self._closed = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="kafka-deliveries", daemon=True)
        self._poller.start()

    async def deliver(self, topic: str, messages: Sequence[Mapping[str, Any]]) -> list[Place]:
        """The places of the messages (key, value, headers), once the broker has acknowledged all; LogAwayError.

        After an error, some of them may have been delivered.
        """
        if time.monotonic() < self._backoff_until:
            raise LogAwayError("Kafka did not accept events a moment ago")
        batch = _PendingBatch(len(messages), asyncio.get_running_loop())
        producer = self._producer
        try:
            for number, message in enumerate(messages):
                producer.produce(topic, on_delivery=partial(batch.on_delivery, number), **message)
        except (BufferError, KafkaException) as error:
            raise self._away(error) from error
        try:
            return await batch.places
        except KafkaException as error:
            if error.args[0].fatal():  # the producer is unusable
                self._producer = _made(Producer, self._kafka.producer())
            raise self._away(error) from error

    def close(self) -> None:
        """Flush the pending messages, and end the thread."""
        self._producer.flush(_ANSWER_S)
        self._closed.set()
        self._poller.join(_ANSWER_S)

    def _away(self, error: Exception) -> LogAwayError:
        self._backoff_until = time.monotonic() + _BACKOFF_S
        return LogAwayError(f"Kafka did not accept the events: {_message_of(error)}")

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(_LOOK_S)


class _PendingBatch:
    """Collects the delivery reports of one batch, which arrive in another thread."""

    def __init__(self, n: int, loop: asyncio.AbstractEventLoop) -> None:
        self.places: asyncio.Future[list[Place]] = loop.create_future()
        self._found: list[Place] = [(-1, -1)] * n
        self._missing = n
        self._error: KafkaError | None = None
        self._loop = loop

    def on_delivery(self, number: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._error = self._error or error
        else:
            self._found[number] = place_of(message)
        self._missing -= 1
        if not self._missing:
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if self.places.done():  # cancelled
            return
        if self._error is not None:
            self.places.set_exception(KafkaException(self._error))
        else:
            self.places.set_result(self._found)


class Partitions:
    """A consumer of all partitions of the topic from given offsets. Blocking, and not thread-safe."""

    def __init__(self, kafka: Kafka, group: str) -> None:
        self._topic = kafka.topic
        self._consumer = _made(Consumer, kafka.consumer(group))
        self._at: dict[int, int] | None = None  # by partition: the next offset, where one is known
        self._at_end: set[int] = set()
        self._numbers: list[int] = []
        self._looked_at = float("-inf")

    def fetch(
        self, after: Mapping[int, int], limit: int, until: Mapping[int, int] | None = None
    ) -> tuple[list[Message], dict[int, int]]:
        """Up to `limit` messages from offsets on (by partition; others from their start), and the next offsets.

        `until`: exclusive end offsets; partitions without one are not read. LogAwayError, LogGapError.
        """
        self._seek(dict(after))
        at = dict(after)
        if until is not None:
            self._at_end.update(n for n in self._numbers if at.get(n, 0) >= until.get(n, 0))
        messages: list[Message] = []
        deadline = time.monotonic() + _ANSWER_S
        looked = False
        while len(messages) < limit and not (looked and self._at_end.issuperset(self._numbers)):
            if time.monotonic() > deadline:
                if not messages and (not self._at_end or until is not None):
                    self._at = None
                    raise LogAwayError("Kafka does not answer")
                break
            for message in self._consumer.consume(limit - len(messages), _LOOK_S):
                self._take(message, messages, at, until)
            looked = True
        self._at = at if until is None else None  # messages beyond `until` were skipped
        return messages, at

    def ends(self) -> Ends:
        """Low and high watermarks of all partitions; LogAwayError."""
        try:
            return {
                number: self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), _ANSWER_S)
                for number in self.numbers()
            }
        except KafkaException as error:
            raise LogAwayError(f"Kafka does not answer: {_message_of(error)}") from error

    def at(self, at_ms: int) -> dict[int, int]:
        """By partition, the offset of the first message from an instant on, or the high watermark; LogAwayError."""
        places = [TopicPartition(self._topic, number, at_ms) for number in self.numbers()]
        try:
            found = self._consumer.offsets_for_times(places, _ANSWER_S)
        except KafkaException as error:
            raise LogAwayError(f"Kafka does not answer: {_message_of(error)}") from error
        ends = self.ends()
        return {one.partition: one.offset if one.offset >= 0 else ends[one.partition][1] for one in found}

    def n_messages(self, topic: str) -> int:
        """The number of messages in another topic, 0 where it does not exist yet; LogAwayError."""
        try:
            found = self._consumer.list_topics(topic, _ANSWER_S).topics[topic]
            if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise LogAwayError(f"topic {topic}: {found.error.str()}")
            ends = [
                self._consumer.get_watermark_offsets(TopicPartition(topic, number), _ANSWER_S)
                for number in found.partitions
            ]
        except KafkaException as error:
            raise LogAwayError(f"Kafka does not answer: {_message_of(error)}") from error
        return sum(high - low for low, high in ends)

    def numbers(self) -> list[int]:
        """The partitions of the topic; LogAwayError."""
        if time.monotonic() - self._looked_at > _TOPIC_LOOK_S:
            try:
                found = self._consumer.list_topics(self._topic, _ANSWER_S).topics[self._topic]
            except KafkaException as error:
                raise LogAwayError(f"Kafka does not answer: {_message_of(error)}") from error
            if found.error is not None:
                raise LogAwayError(f"topic {self._topic}: {found.error.str()}; create the topic")
            self._numbers = sorted(found.partitions)
            self._looked_at = time.monotonic()
        return self._numbers

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def _seek(self, after: dict[int, int]) -> None:
        previous = self._numbers
        if self.numbers() == previous and self._at == after:
            return
        places = [TopicPartition(self._topic, n, after.get(n, OFFSET_BEGINNING)) for n in self._numbers]
        self._consumer.assign(places)
        self._at_end.clear()
        self._at = None

    def _take(
        self, message: Message, messages: list[Message], at: dict[int, int], until: Mapping[int, int] | None
    ) -> None:
        error = message.error()
        if error is None:
            number, offset = place_of(message)
            end = float("inf") if until is None else until.get(number, 0)
            if offset < end:
                messages.append(message)
                at[number] = offset + 1
                self._at_end.discard(number)
            if offset + 1 >= end:
                self._at_end.add(number)
        elif error.code() == KafkaError._PARTITION_EOF:
            self._at_end.add(place_of(message)[0])
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._at = None
            raise LogGapError(
                f"Kafka no longer has the next messages of {message.topic()}/{message.partition()}: {error.str()}; "
                "if there is an archive, `recsys replay FOLDER` first; then `recsys skip-gap READER` moves the reader "
                "to the oldest message that is kept"
            )
        elif not error.retriable() and error.code() != KafkaError._MAX_POLL_EXCEEDED:
            self._at = None
            raise LogAwayError(f"Kafka: {error.str()}")


def place_of(message: Message) -> Place:
    """Partition and offset of a message from a broker."""
    partition, offset = message.partition(), message.offset()
    assert partition is not None  # noqa: S101 - None only for one that was not sent
    assert offset is not None  # noqa: S101
    return partition, offset


def _made(kind: Any, settings: dict[str, Any]) -> Any:
    try:
        return kind(settings)
    except KafkaException as error:
        raise InputError(f"RECSYS_KAFKA_OPTIONS cannot be used: {_message_of(error)}") from None


def _message_of(error: Exception) -> str:
    first = error.args[0] if error.args else error
    return str(first.str() if isinstance(first, KafkaError) else first)
