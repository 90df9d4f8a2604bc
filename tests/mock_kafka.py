"""librdkafka's own mock cluster, which comes inside the confluent-kafka wheel, driven through its C interface."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import confluent_kafka

PRODUCE, FETCH = 0, 1  # numbers of requests in Kafka's protocol
NOT_LEADER, REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS, LOST_CONNECTION = 6, 7, 19, -195
_PRODUCER = 0


class MockCluster:
    """Brokers that fail as they are told."""

    def __init__(self, library: ctypes.CDLL, cluster: int) -> None:
        self._library, self._cluster = library, cluster
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        self.servers: str = library.rd_kafka_mock_cluster_bootstraps(ctypes.c_void_p(cluster)).decode()

    def create(self, topic: str, n_partitions: int = 3) -> str:
        call = self._library.rd_kafka_mock_topic_create
        assert call(ctypes.c_void_p(self._cluster), topic.encode(), n_partitions, 1) == 0
        return topic

    def fail(self, request: int, *errors: int) -> None:
        """The next requests of a kind get these errors, one each."""
        array = (ctypes.c_int * len(errors))(*errors)
        call = self._library.rd_kafka_mock_push_request_errors_array
        call(ctypes.c_void_p(self._cluster), ctypes.c_int16(request), ctypes.c_size_t(len(errors)), array)

    def delay(self, broker: int, request: int, *milliseconds: int) -> None:
        """A broker does the next requests of a kind, and answers so much later."""
        call = self._library.rd_kafka_mock_broker_push_request_error_rtts
        pairs = [ctypes.c_int(value) for ms in milliseconds for value in (0, ms)]
        count = ctypes.c_size_t(len(milliseconds))
        assert call(ctypes.c_void_p(self._cluster), ctypes.c_int32(broker), ctypes.c_int16(request), count, *pairs) == 0

    def set_down(self, broker: int, *, down: bool) -> None:
        name = "rd_kafka_mock_broker_set_down" if down else "rd_kafka_mock_broker_set_up"
        assert getattr(self._library, name)(ctypes.c_void_p(self._cluster), ctypes.c_int32(broker)) == 0


@contextmanager
def mock_cluster(n_brokers: int = 1) -> Iterator[MockCluster]:
    """A cluster that ends with the block; its brokers are numbered from 1."""
    [path] = (Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka-*.so*")
    library = ctypes.CDLL(str(path))
    library.rd_kafka_new.restype = library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    reason = ctypes.create_string_buffer(512)
    client = library.rd_kafka_new(_PRODUCER, None, reason, ctypes.c_size_t(512))
    assert client, reason.value
    cluster = library.rd_kafka_mock_cluster_new(ctypes.c_void_p(client), n_brokers)
    assert cluster
    try:
        yield MockCluster(library, cluster)
    finally:
        library.rd_kafka_mock_cluster_destroy(ctypes.c_void_p(cluster))
        library.rd_kafka_destroy(ctypes.c_void_p(client))
