"""Real processes: found again by the next command, reused or replaced, and ended with all their descendants."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from airflow_service.demo.services import Service, Services
from recsys.errors import RecsysError

# A leader with a child in a session of its own, as Airflow's are; both note their numbers and go on for ever.
FAMILY = """
import os, subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
Path("family.part").write_text(f"{os.getpid()} {child.pid}")
os.rename("family.part", "family")
time.sleep(600)
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    return tmp_path


@pytest.fixture
def services(state: Path) -> Iterator[Services]:
    services = Services(state)
    yield services
    services.stop(services.names())


def family(state: Path, variables: dict[str, str] | None = None) -> Service:
    return Service("family", (sys.executable, "-c", FAMILY), variables or {}, (state / "family").exists)


def members(state: Path) -> list[int]:
    return [int(pid) for pid in (state / "family").read_text().split()]


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_service_is_found_again_and_ended_with_its_descendants(services: Services, state: Path) -> None:
    service = family(state)
    services.start(service, os.environ)
    services.wait([service], 20)
    later = Services(state)  # as a later command sees it
    assert later.is_running(service)
    assert later.names() == ["family"]
    assert not later.is_running(family(state, {"PORT": "other"})), "other variables are another service"
    pids = members(state)
    assert later.stop(["family"]) == {"family": 3}
    assert not any(is_alive(pid) for pid in pids)
    assert later.stop(["family"]) == {}


def test_what_has_just_been_started_runs_though_nothing_can_be_read_of_it_yet(
    services: Services, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as at_once:
        at_once.setattr(psutil.Process, "environ", lambda _: {})  # as between a process's start and its first moment
        at_once.setattr(psutil.Process, "cmdline", lambda _: [])
        started = services.start(family(state), os.environ)
        services.check_alive(["family"])
        assert [process.pid for process in services.processes("family")] == [started.pid]
        assert Services(state).processes("family") == []
    services.stop(["family"])
    with pytest.raises(RecsysError, match="family has ended"):
        services.check_alive(["family"])


def test_orphans_of_a_killed_leader_are_ended(services: Services, state: Path) -> None:
    service = family(state)
    services.start(service, os.environ).kill()  # may die before or after its child is born
    (state / "family").unlink(missing_ok=True)
    leader = services.start(service, os.environ)
    services.wait([service], 20)
    leader.kill()
    leader.wait()
    pids = members(state)
    assert all(is_alive(pid) for pid in pids)
    with pytest.raises(RecsysError, match="family has ended"):
        services.check_alive(["family"])
    assert Services(state).stop(["family"]) == {"family": 2}
    assert not any(is_alive(pid) for pid in pids)


def test_a_child_that_ignores_the_request_is_killed(
    services: Services, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_service.demo.services.TERMINATE_S", 0.5)
    code = (
        "import signal, time, pathlib; signal.signal(15, signal.SIG_IGN); pathlib.Path('up').touch(); time.sleep(600)"
    )
    service = Service("stubborn", (sys.executable, "-c", code), {}, (state / "up").exists)
    services.start(service, os.environ)
    services.wait([service], 20)
    assert services.stop(["stubborn"]) == {"stubborn": 2}
    assert services.processes() == []


def test_other_state_folders_are_left_alone(
    services: Services, state: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    service = family(state)
    services.start(service, os.environ)
    services.wait([service], 20)
    other = tmp_path_factory.mktemp("other")
    assert Services(other).processes() == []
    assert Services(other).stop(["family"]) == {}
    assert services.is_running(service)


def test_a_foreign_port_is_named_with_its_variable(services: Services) -> None:
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        port = foreign.getsockname()[1]
        service = Service("mlflow", ("true",), {}, lambda: True, port, "MLFLOW_PORT")
        with pytest.raises(RecsysError, match=rf"port {port}.*mlflow.*MLFLOW_PORT="):
            services.start(service, os.environ)


def test_a_service_that_dies_shows_the_end_of_its_log(services: Services) -> None:
    code = "import sys; sys.exit('the disk is full')"
    service = Service("frail", (sys.executable, "-c", code), {}, lambda: False)
    assert services.start(service, os.environ).wait(20) == 1
    with pytest.raises(RecsysError, match=r"the disk is full(.|\n)*given up after 3 restarts.*make demo"):
        services.wait([service], 20)


def kill_and_await_restart(services: Services, state: Path) -> None:
    services.start(counted(state), os.environ)
    wait_until(lambda: born(state))
    (first,) = born(state)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(born(state)) == 2)


def test_a_service_that_is_killed_soon_is_started_again(services: Services, state: Path) -> None:
    kill_and_await_restart(services, state)
    services.check_alive(["frail"])


COUNT = """
import os, sys, time
from pathlib import Path
Path(f"born-{os.getpid()}").touch()
time.sleep(600)
"""


def counted(state: Path) -> Service:
    return Service("frail", (sys.executable, "-c", COUNT), {}, lambda: bool(born(state)))


def wait_until(condition: object, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def born(state: Path) -> set[int]:
    return {int(path.name.removeprefix("born-")) for path in state.glob("born-*")}


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services are started again from their first end on."""
    monkeypatch.setattr("airflow_service.demo.services.TRIAL_S", 0.0)


@pytest.mark.usefixtures("no_trial")
def test_a_killed_service_is_started_again_without_what_it_left(services: Services, state: Path) -> None:
    services.start(family(state), os.environ)
    wait_until((state / "family").exists)
    leader, child = members(state)
    (state / "family").unlink()
    os.kill(leader, signal.SIGKILL)
    wait_until((state / "family").exists)
    assert leader not in members(state)
    assert not is_alive(child), "an orphan may hold the port"
    services.check_alive(["family"])
    assert "trying again" in services.log_file("family").read_text()
    assert services.stop(["family"]) == {"family": 3}
    assert services.processes() == []


@pytest.mark.usefixtures("no_trial")
def test_stop_ends_a_service_and_nothing_comes_back(services: Services, state: Path) -> None:
    kill_and_await_restart(services, state)
    services.stop(["frail"])
    time.sleep(2.5)
    assert len(born(state)) == 2
    assert services.processes() == []


def test_what_services_write_is_for_their_user_alone(services: Services, state: Path) -> None:
    services.run_job("job", (sys.executable, "-c", "open('done', 'w')"), os.environ)
    assert {path.stat().st_mode & 0o077 for path in (state / "done", services.log_file("job"))} == {0}


def test_a_job_runs_to_its_end_or_says_why_not(services: Services, state: Path) -> None:
    services.run_job("job", (sys.executable, "-c", "open('done', 'w')"), os.environ)
    assert (state / "done").exists()
    with pytest.raises(RecsysError, match=r"exit status 3(.|\n)*no such table"):
        services.run_job("job", (sys.executable, "-c", "print('no such table'); raise SystemExit(3)"), os.environ)
    assert services.names() == []


def test_a_job_that_takes_long_is_told_with_what_it_says(
    services: Services, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_service.demo.services.SAY_S", 0.05)
    code = f"""
import logging, pathlib, time
from recsys import log
log.setup()
logging.getLogger("recsys.steps.import_progress").info("events of a.csv: 20,000 rows so far")
logging.getLogger("elsewhere").warning("something else")
while not pathlib.Path({str(state / "told")!r}).exists():
    time.sleep(0.05)
"""
    messages: list[str] = []

    def say(text: str) -> None:
        messages.append(text)
        if "rows so far" in text:
            (state / "told").touch()

    services.run_job("job", (sys.executable, "-c", code), os.environ, say)
    assert messages[0].startswith("job runs, ")
    assert messages[-1].endswith(" s: events of a.csv: 20,000 rows so far")
