# SPDX-License-Identifier: Apache-2.0
"""Signals to a worker that is a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.scripted_server import ScriptedServer
from tests.unit.worker.conftest import Rig

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


class Process:
    """A worker in the middle of a request, started by a command, on a terminal where one is given."""

    def __init__(
        self,
        rig: Rig,
        server: ScriptedServer,
        *,
        by: tuple[str, ...] = (),
        terminal: int | None = None,
        **environment: str,
    ) -> None:
        self.let_go = rig.folder / "let-go"
        self.request = server.add_request()
        self._process = subprocess.Popen(
            [*by, sys.executable, "-m", "tests.support.held_worker"],
            cwd=ROOT,
            env={**os.environ, **rig.environment, "LET_GO": str(self.let_go), **environment},
            stdin=terminal,
            stdout=terminal,
            stderr=subprocess.PIPE if terminal is None else terminal,
            text=True,
        )
        server.wait_for(lambda: bool(server.calls_to("/update-status/")), seconds=30)

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def ended(self, seconds: float) -> tuple[int, str]:
        """Return exit code and log; fail where it does not end in time."""
        try:
            _, log = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            pytest.fail(f"the worker did not end within {seconds} s")
        return self._process.returncode, log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_request_finish(rig: Rig, server: ScriptedServer, number: int) -> None:
    process = Process(rig, server)
    process.send(number)
    time.sleep(0.5)
    assert process.request.status == "processing"
    process.let_go.touch()
    code, log = process.ended(10)
    assert (code, process.request.status) == (0, "completed"), log


def test_the_first_signal_hands_back_where_that_is_set(rig: Rig, server: ScriptedServer) -> None:
    process = Process(rig, server, SHUTDOWN="handback")
    process.send(signal.SIGTERM)
    code, log = process.ended(10)
    assert (code, process.request.status) == (0, "pending"), log


def test_the_second_signal_hands_back_now(rig: Rig, server: ScriptedServer) -> None:
    process = Process(rig, server)
    process.send(signal.SIGTERM)
    time.sleep(0.3)
    process.send(signal.SIGTERM)
    code, log = process.ended(10)
    assert (code, process.request.status) == (0, "pending"), log
    assert "handed back" in log


@pytest.mark.slow
def test_work_that_cannot_be_interrupted_does_not_hold_the_process(rig: Rig, server: ScriptedServer) -> None:
    process = Process(rig, server, SHUTDOWN="handback", DEAF="1")
    process.send(signal.SIGTERM)
    server.wait_for(lambda: process.request.status == "pending", seconds=3)
    code, _ = process.ended(15)
    assert code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs util-linux's setsid")
def test_a_terminal_that_goes_away_has_the_request_handed_back_now(rig: Rig, server: ScriptedServer) -> None:
    ours, terminal = os.openpty()
    process = Process(rig, server, by=("setsid", "--ctty"), terminal=terminal)
    os.close(terminal)
    os.close(ours)
    code, _ = process.ended(10)
    assert (code, process.request.status) == (0, "pending")


def test_nohup_lets_a_worker_outlive_its_terminal(rig: Rig, server: ScriptedServer) -> None:
    process = Process(rig, server, by=("nohup",))
    process.send(signal.SIGHUP)
    time.sleep(0.5)
    process.let_go.touch()
    server.wait_for(lambda: process.request.status == "completed", seconds=10)
    process.send(signal.SIGTERM)
    assert process.ended(10)[0] == 0
