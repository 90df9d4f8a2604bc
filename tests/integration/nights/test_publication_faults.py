"""Publications while processes are killed, publishers race and Postgres goes away: real processes, real Postgres."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg2
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from recsys.errors import FencedError, NotFoundError, PublicationError
from recsys.storage import embedded, publications
from recsys.storage import lists as list_store
from recsys.storage.engine import engine_of, is_lost_connection, migrate, url_of, with_patience
from recsys.storage.list_format import partition_name
from recsys.storage.pruning import erase, prune
from recsys.storage.tables import list_versions, publication_pointer
from recsys.types import Lists
from tests.conftest import free_port, open_temporary_folder
from tests.integration.nights import lists_world as world

pytestmark = pytest.mark.slow

N_OWNERS = 20_000  # enough for a write to take long enough to be killed inside


@pytest.fixture
def shop(clean_database: sa.Engine) -> sa.Engine:
    world.add_items(clean_database)
    return clean_database


def start(*arguments: object) -> subprocess.Popen[str]:
    """A process of lists_world.py, once it says that it is at work."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.integration.nights.lists_world", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline(), process.stderr.read() if process.stderr else ""
    return process


def end(process: subprocess.Popen[str], how: int = signal.SIGKILL) -> tuple[str, str]:
    process.send_signal(how)
    return process.communicate(timeout=60)


@contextmanager
def reader(url: str) -> Iterator[list[str]]:
    """A process that reads all the while; what it saw is in the list after the block."""
    process = start("read", url)
    seen: list[str] = []
    try:
        yield seen
    finally:
        output, errors = end(process)
        assert not errors
        seen += output.splitlines()


def traces(engine: sa.Engine) -> tuple[list[str], list[str]]:
    """Tables of versions, and names of versions that are being written."""
    with engine.connect() as connection:
        tables = connection.scalars(sa.text("select relname from pg_class where relname ~ '^lists_[0-9]+$'")).all()
        writing = connection.scalars(
            sa.select(list_versions.c.version).where(list_versions.c.status == "writing")
        ).all()
    return list(tables), list(writing)


def test_a_writer_killed_at_any_point_and_run_again_leaves_the_state_of_an_undisturbed_run(shop: sa.Engine) -> None:
    published = world.publish(shop, 1)
    started = time.monotonic()
    undisturbed = world.write(shop, "personal", 5, version="undisturbed", n_owners=N_OWNERS)
    span_s = 1.2 * (time.monotonic() - started)
    n_killed = 0
    for fraction in (0.05, 0.3, 0.5, 0.7, 0.85, 0.95):
        process = start("write", url_of(shop), "personal", 5, N_OWNERS)
        time.sleep(fraction * span_s)
        end(process)
        n_killed += process.returncode == -signal.SIGKILL
        assert publications.current(shop) == published
        if list_store.find(shop, "personal", "edition-5") is not None:
            break  # it was complete before the kill came
        publications.verify(shop)
    assert n_killed >= 2
    written = world.write(shop, "personal", 5, n_owners=N_OWNERS)
    assert written.checks == undisturbed.checks
    assert world.contents(shop, written) == world.contents(shop, undisturbed)
    tables, writing = traces(shop)
    versions = {undisturbed.list_version_id, written.list_version_id, *published.manifest.values()}
    assert sorted(tables) == sorted(partition_name(i) for i in versions)
    assert writing == []


def test_readers_see_whole_publications_only_while_publishers_are_killed(shop: sa.Engine) -> None:
    choice = random.Random(3)  # noqa: S311 - moments to kill at
    world.publish(shop, 1)
    with reader(url_of(shop)) as seen:
        for edition in range(2, 7):
            process = start("publish", url_of(shop), edition)
            time.sleep(choice.uniform(0, 0.4))
            end(process)
            world.publish(shop, edition)
            if edition == 4:
                publications.rollback(shop)
            prune(shop, keep=2)
    assert [line for line in seen if line.startswith("torn")] == []
    assert len([line for line in seen if line.startswith("saw")]) >= 4
    publications.verify(shop)


def test_of_two_publishers_at_once_one_is_refused(shop: sa.Engine) -> None:
    for attempt in range(4):
        fence = publications.read_fence(shop)
        outcomes: list[object] = []
        gate = threading.Barrier(2)

        def run(edition: int, fence: int = fence, gate: threading.Barrier = gate) -> None:
            gate.wait()
            try:
                outcomes.append(world.publish(shop, edition, fence))  # noqa: B023 - joined below
            except FencedError as error:
                outcomes.append(error)  # noqa: B023

        threads = [threading.Thread(target=run, args=(10 * attempt + i,)) for i in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [outcome for outcome in outcomes if isinstance(outcome, FencedError)]
        published = [outcome for outcome in outcomes if outcome not in refused]
        assert len(refused) == len(published) == 1
        assert publications.current(shop) == published[0]


def test_two_writers_of_one_version_at_once_make_one(shop: sa.Engine) -> None:
    processes = [start("write", url_of(shop), "personal", 5, N_OWNERS) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len(traces(shop)[0]) == 1
    assert list_store.find(shop, "personal", "edition-5") is not None


def test_postgres_away_for_a_while_is_waited_for() -> None:
    folder = open_temporary_folder()
    port = free_port()
    url = embedded.ensure(folder, port).url("recsys")
    engine = engine_of(url)
    try:
        migrate(engine)
        world.add_items(engine)
        process = start("patient", url, 1, 60, 120)
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        embedded.stop(folder)
        with pytest.raises(sa.exc.OperationalError):
            publications.current(engine)
        time.sleep(10)
        assert process.poll() is None  # it waits
        embedded.ensure(folder, port)
        assert with_patience(lambda: publications.current(engine), 60) is not None
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert output.splitlines()[-1] == "published 60"
        assert len(publications.newest(engine, 100)) == 60
        publications.verify(engine)
    finally:
        engine.dispose()
        embedded.stop(folder)
        shutil.rmtree(folder)


def test_any_sequence_of_publish_kill_rollback_and_prune_leaves_one_pointer_to_a_whole_publication(
    clean_database: sa.Engine,
) -> None:
    engine = clean_database
    world.add_items(engine)

    class Machine(RuleBasedStateMachine):
        @initialize()
        def start_over(self) -> None:
            with engine.begin() as connection:
                erase(connection)
            self.expected: int | None = None

        @rule(edition=st.integers(1, 6))
        def publish(self, edition: int) -> None:
            self.expected = world.publish(engine, edition).publication_id

        @rule(edition=st.integers(7, 9))
        def refused(self, edition: int) -> None:
            version = world.write(engine, "personal", edition, n_items=world.N_ITEMS + 1)
            fence = publications.read_fence(engine)
            with pytest.raises(PublicationError):
                publications.publish(engine, {"personal": version.list_version_id}, fence, dataset="d")

        @rule(edition=st.integers(10, 12), moment=st.sampled_from(["writing", "before commit", "fence"]))
        def killed(self, edition: int, moment: str) -> None:
            """What a kill leaves on the server: the backend ends in the middle of the transaction."""
            fence = publications.read_fence(engine)
            if moment == "fence":
                return
            manifest = {kind: world.write(engine, kind, edition).list_version_id for kind in world.KINDS}
            doomed = engine_of(url_of(engine))

            def blocks() -> Iterator[Lists]:
                yield from world.make(edition)
                kill_backends(engine)

            def write_lists() -> None:
                version, about = f"killed-{edition}", {"dataset": "d", "made_by": "t", "sources": ["als"]}
                list_store.write(doomed, "default", version, blocks, **about)

            def publish() -> None:
                sa.event.listen(doomed, "commit", lambda _: kill_backends(engine))
                publications.publish(doomed, manifest, fence, dataset="d")

            with pytest.raises((sa.exc.DBAPIError, psycopg2.Error)) as ended:
                (write_lists if moment == "writing" else publish)()
            assert is_lost_connection(ended.value)
            doomed.dispose()

        @rule()
        def roll_back(self) -> None:
            with suppress(NotFoundError):
                self.expected = publications.rollback(engine).publication_id

        @rule(keep=st.integers(1, 3))
        def clear(self, keep: int) -> None:
            prune(engine, keep)

        @invariant()
        def one_pointer_to_a_whole_publication(self) -> None:
            with engine.connect() as connection:
                pointer = connection.execute(sa.select(publication_pointer)).one()
            assert pointer.publication_id == self.expected
            if self.expected is not None:
                assert publications.verify(engine).keys() == set(world.KINDS)

    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=12, stateful_step_count=10, suppress_health_check=list(HealthCheck)),
    )


def kill_backends(engine: sa.Engine) -> None:
    """End all server processes of the database but the one that is asked."""
    with engine.connect() as connection:
        connection.execute(
            sa.text(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
            )
        )
