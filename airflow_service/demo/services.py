"""Background processes that outlive the command that started them, and are found again by the next one.

Each service runs in a session of its own, led by a process that starts it again when it ends (`supervise.py`). All
its descendants carry a mark in their environment: `make stop` finds them by it, whoever their parent has become. What
a service writes is for its user alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from recsys import processes
from recsys.errors import RecsysError

_MARK = "RECSYS_SERVICE"  # state folder:service:fingerprint
_SUPERVISE = "airflow_service.demo.supervise"
TRIAL_S = 30.0  # what never runs for so long is given up after a few restarts
TERMINATE_S = 15.0
SAY_S = 15.0  # what is under way is messages so often
_MESSAGE = re.compile(r"^\S+ [A-Z]+ recsys\S*: (.*)$", re.MULTILINE)  # a line of recsys.log


@dataclass(frozen=True)
class Service:
    """A command that goes on, and how to know that it answers."""

    name: str
    command: tuple[str, ...]
    chosen: Mapping[str, str]  # the variables that matter to it: other values, another process
    is_ready: Callable[[], bool]
    port: int | None = None
    port_variable: str = ""

    @property
    def fingerprint(self) -> str:
        identity = [self.command, sorted(self.chosen.items())]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


class _Child(NamedTuple):
    process: subprocess.Popen[bytes]
    fingerprint: str


class Services:
    """The services of one demo."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._children: dict[str, _Child] = {}  # those that this process has started last, by service

    def is_running(self, service: Service) -> bool:
        """Whether this very service (same command, same variables) runs and answers."""
        return self._leader(service.name, service.fingerprint) is not None and service.is_ready()

    def check_port(self, service: Service) -> None:
        """RecsysError when somebody else has the port of a service."""
        if service.port is None or self.processes(service.name):
            return  # free, or ours
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", service.port))
            except OSError as error:
                raise RecsysError(
                    f"port {service.port}, which {service.name} needs, cannot be had ({error.strerror})"
                    f"{_holder(service.port)}; choose another one: make demo {service.port_variable}=…"
                ) from None

    def start(self, service: Service, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a service after ending what is left of an earlier one; does not wait until it answers."""
        self.stop([service.name])
        self.check_port(service)
        lead = (sys.executable, "-m", _SUPERVISE, str(self._state), service.name, str(TRIAL_S))
        return self._start(service.name, (*lead, *service.command), environment, service.fingerprint)

    def wait(self, services: Iterable[Service], timeout_s: float) -> None:
        """Wait until all answer; RecsysError with the log's end when one dies or takes longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        for service in services:
            while not service.is_ready():
                self.check_alive([service.name])
                if time.monotonic() > deadline:
                    raise RecsysError(
                        f"{service.name} does not answer after {timeout_s:.0f} s; {self._tail(service.name)}"
                    )
                time.sleep(0.3)

    def check_alive(self, names: Iterable[str]) -> None:
        """RecsysError with the log's end when a service's process has ended."""
        for name in names:
            if self._leader(name) is None:
                raise RecsysError(f"{name} has ended; {self._tail(name)}")

    def processes(self, name: str = "", fingerprint: str = "") -> list[psutil.Process]:
        """All processes of a service (as it was started), or of all services, but this one."""
        mark = ":".join([str(self._state), *([name, fingerprint] if name else [""])])
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                is_its = process.environ().get(_MARK, "").startswith(mark)
                if is_its and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                    found.append(process)
        own = (self._own(one, fingerprint) for one in ([name] if name else list(self._children)))
        return found + [process for process in own if process is not None and process not in found]

    def run_job(
        self,
        name: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        say: Callable[[str], None] = lambda text: None,
    ) -> str:
        """Run a command to its end, as a service is run: its log. RecsysError with the end of it when it fails.

        `say` is identity every SAY_S how long it has run, and what it has last messages of its work.
        """
        self.stop([name])
        log_file = self.log_file(name)
        log_file.unlink(missing_ok=True)
        process, started = self._start(name, command, environment), time.monotonic()
        try:
            while (code := _ended(process, SAY_S)) is None:
                messages = _MESSAGE.findall(log_file.read_text(errors="replace"))
                say(f"{name} runs, {time.monotonic() - started:.0f} s{f': {messages[-1]}' if messages else ''}")
        finally:
            self.stop([name])
        if code != 0:
            raise RecsysError(f"{' '.join(command)} failed (exit status {code}); {self._tail(name)}")
        return log_file.read_text(errors="replace")

    def log_file(self, name: str) -> Path:
        """Where a service's output goes."""
        return self._state / "log" / f"{name}.log"

    def names(self) -> list[str]:
        """The services that have processes."""
        found = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error, OSError):
                found.add(process.environ()[_MARK].split(":")[-2])
        return sorted(found)

    def stop(self, names: Iterable[str]) -> dict[str, int]:
        """End services with all their descendants, and wait; service → number of processes that were ended.

        The leaders are asked first, so that they can end their children in order; what is left after
        TERMINATE_S is killed.
        """
        names = list(names)
        ended = {name: len(found) for name in names if (found := self.processes(name))}
        for name in ended:
            leader = self._leader(name)
            for process in self.processes(name) if leader is None else [leader]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.terminate()
        deadline = time.monotonic() + TERMINATE_S
        while self._left(ended) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.kill(ended)
        for child in list(self._children.values()):
            child.process.poll()  # no zombies
        return ended

    def kill(self, names: Iterable[str]) -> None:
        """Kill what is left of services, again as long as new processes are born; RecsysError when some stay."""
        names = list(names)
        deadline = time.monotonic() + 30
        while left := self._left(names):
            if time.monotonic() > deadline:
                raise RecsysError(f"these processes cannot be ended: {[process.pid for process in left]}")
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=3)

    def _left(self, names: Iterable[str]) -> list[psutil.Process]:
        return [process for name in names for process in self.processes(name)]

    def _leader(self, name: str, fingerprint: str = "") -> psutil.Process | None:
        """The process that supervises a service (as it was started); None when it is no more."""
        if (own := self._own(name, fingerprint)) is not None:
            return own
        for process in self.processes(name, fingerprint):
            with contextlib.suppress(psutil.Error, OSError):
                if _SUPERVISE in process.cmdline():
                    return process
        return None

    def _own(self, name: str, fingerprint: str = "") -> psutil.Process | None:
        """The child that was started for a service, while it runs: what it is started as can be read a moment later."""
        child = self._children.get(name)
        if child is None or not child.fingerprint.startswith(fingerprint) or child.process.poll() is not None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(child.process.pid)
        return None

    def _start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], fingerprint: str = ""
    ) -> subprocess.Popen[bytes]:
        # SPT_NOENV: Airflow renames its processes, and would write over their environment with it.
        marked = {**environment, _MARK: f"{self._state}:{name}:{fingerprint}", "SPT_NOENV": "1"}
        process = processes.start(command, self.log_file(name), cwd=self._state, env=marked, umask=0o077)
        self._children[name] = _Child(process, fingerprint)
        return process

    def _tail(self, name: str, n_lines: int = 15) -> str:
        path = self.log_file(name)
        lines = path.read_text(errors="replace").splitlines()[-n_lines:] if path.exists() else []
        return f"its log ({path}) ends with:\n" + "\n".join(lines)


def _ended(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """The exit status; None where the process still runs then."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None


def _holder(port: int) -> str:
    """Who listens on a port, as far as we may know."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f": process {connection.pid} ({psutil.Process(connection.pid).name()}) has it"
    return ""
