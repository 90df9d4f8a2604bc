"""A real Kafka broker for the tests: KRaft, one process with little memory, killed and started again where asked.

The jars come through Maven once and stay in .local/kafka. Without Java and Maven the tests that ask for a broker fail:
`apt-get install default-jre-headless maven` fixes that, as .ci/run does.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import time
from pathlib import Path

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.conftest import free_port, open_temporary_folder

POM = Path(__file__).parent / "kafka" / "pom.xml"
CACHE = Path(__file__).resolve().parents[1] / ".local" / "kafka"
START_S, JARS_S = 120, 280
_CONFIGURATION = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/data
num.partitions=3
num.network.threads=2
num.io.threads=2
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
group.initial.rebalance.delay.ms=0
log.flush.interval.messages=1
"""


def jars() -> Path:
    """The folder of the broker's jars; fetched when the cache has none for this pom.xml."""
    name = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may be at it
        if not folder.exists():
            for program in ("java", "mvn"):
                assert shutil.which(program), f"{program} is missing: apt-get install default-jre-headless maven"
            part = CACHE / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            call = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
            subprocess.run([*call, f"-DoutputDirectory={part}"], check=True, timeout=JARS_S)
            part.rename(folder)
    return folder


class Broker:
    """One broker with a folder of its own; `kill` ends it as a power cut does, `start` brings it back with its data."""

    def __init__(self) -> None:
        self.folder = open_temporary_folder()
        self.port = free_port()
        text = _CONFIGURATION.format(port=self.port, controller=free_port(), folder=self.folder)
        (self.folder / "server.properties").write_text(text)
        self._process: subprocess.Popen[bytes] | None = None
        self._java = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars()}/*"]
        format_ = [*self._java, "kafka.tools.StorageTool", "format", "-t", "recsysRecsysRecsysRecA"]
        subprocess.run([*format_, "-c", self._properties], check=True, capture_output=True, timeout=START_S)

    @property
    def _properties(self) -> str:
        return str(self.folder / "server.properties")

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when it answers."""
        with (self.folder / "broker.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*self._java, "kafka.Kafka", self._properties], stdout=output, stderr=output, cwd=self.folder
            )
        deadline = time.monotonic() + START_S
        while not self.answers():
            assert self._process.poll() is None, (self.folder / "broker.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the broker was not ready in time"
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            return bool(self._admin().list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def create(self, topic: str, n_partitions: int = 3) -> str:
        """A new topic, when it can be written to."""
        admin = self._admin()
        for future in admin.create_topics([NewTopic(topic, n_partitions, 1)]).values():
            future.result(START_S)
        return topic

    def forget(self, topic: str, before: dict[int, int]) -> None:
        """Delete what partitions have before offsets, as retention does."""
        places = [TopicPartition(topic, number, offset) for number, offset in before.items()]
        admin = self._admin()  # held until it has answered
        for future in admin.delete_records(places).values():
            future.result(START_S)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
