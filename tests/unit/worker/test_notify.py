# SPDX-License-Identifier: Apache-2.0
"""What systemd hears of the worker."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scripted_server import ScriptedServer
from tests.unit.worker.conftest import Rig
from worker.assembly import build_daemon
from worker.processes.notify import Unsupervised, from_environment
from worker.processes.pulse import STALLED_S, Pulse
from worker.serving.daemon import Mode
from worker.stages import Position

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="systemd is not there")


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        yield receiver


class Heard:
    """A supervision that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def ready(self) -> None:
        self.said.append("ready")

    def alive(self, doing: str) -> None:
        self.said.append(doing)

    def stopping(self) -> None:
        self.said.append("stopping")


def test_the_protocol_is_systemds(systemd: socket.socket, tmp_path: Path) -> None:
    supervision = from_environment({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    supervision.ready()
    supervision.alive("Waiting.")
    supervision.alive("Waiting.")
    supervision.stopping()
    heard = [systemd.recv(4096) for _ in range(4)]
    assert heard == [b"READY=1", b"WATCHDOG=1\nSTATUS=Waiting.", b"WATCHDOG=1", b"STOPPING=1"]


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_socket_is_found_by_its_name(tmp_path: Path) -> None:
    name = f"pathology-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        receiver.settimeout(5)
        from_environment({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert receiver.recv(100) == b"READY=1"


def test_nobody_listening_is_no_reason_to_fail(tmp_path: Path) -> None:
    assert isinstance(from_environment({}), Unsupervised)
    from_environment({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).alive("Waiting.")


def test_a_containers_health_check_sees_a_file_that_is_touched(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    supervision = from_environment({"ALIVE_FILE": str(alive)})
    supervision.ready()
    os.utime(alive, (0, 0))
    supervision.alive("Waiting.")
    assert time.time() - alive.stat().st_mtime < 60
    from_environment({"ALIVE_FILE": str(tmp_path / "missing" / "alive")}).alive("Waiting.")


def test_work_that_stands_still_too_long_gives_no_sign_of_life_until_it_moves() -> None:
    now = [0.0]
    heard = Heard()
    pulse = Pulse(heard, lambda: now[0])
    pulse.working("r" * 32, Position("encode", 0.4))
    now[0] += STALLED_S + 1
    pulse.working("r" * 32, Position("encode", 0.4))
    assert heard.said == ["Request rrrrrrrr: encoding patches, 40%."]
    pulse.working("r" * 32, Position("encode", 0.5))
    assert heard.said[-1] == "Request rrrrrrrr: encoding patches, 50%."


def test_the_loop_says_that_it_is_ready_alive_and_at_its_end(rig: Rig, server: ScriptedServer) -> None:
    heard = Heard()
    server.add_request()
    daemon = build_daemon(rig.settings, rig.analyzer, rig.shutdown, rig.open_slide)
    daemon.run(Mode.ONCE, Pulse(heard))
    assert heard.said[0] == "ready"
    assert heard.said[-1] == "stopping"
    assert [said for said in heard.said if said.startswith("Request ")]


def test_a_loop_that_waits_says_so(rig: Rig) -> None:
    heard = Heard()
    daemon = build_daemon(rig.settings, rig.analyzer, rig.shutdown, rig.open_slide)
    thread = threading.Thread(target=daemon.run, kwargs={"pulse": Pulse(heard)})
    thread.start()
    for _ in range(100):
        if "Waiting for requests." in heard.said:
            break
        time.sleep(0.05)
    rig.shutdown.ask()
    thread.join(10)
    assert (heard.said[0], set(heard.said[1:-1]), heard.said[-1]) == (
        "ready",
        {"Waiting for requests."},
        "stopping",
    )
