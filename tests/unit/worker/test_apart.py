# SPDX-License-Identifier: Apache-2.0
"""Work in a process beside the worker: as if it were done here, whatever becomes of that process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker.errors import WorkerError
from worker.processes.apart import Apart
from worker.processes.shutdown import ENDING

ROOT = Path(__file__).resolve().parents[3]


def refuse(name: str) -> None:
    raise WorkerError(f"{name} is refused")


def die_elsewhere(here: int) -> int:
    """End the process, unless it is this one."""
    if os.getpid() != here:
        os._exit(1)
    return here


def die_a_little_later(here: int) -> int:
    """End the process when another call waits for it, too."""
    if os.getpid() != here:
        time.sleep(0.5)
    return die_elsewhere(here)


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    with Apart() as made:
        yield made


def test_functions_are_called_in_one_other_process(apart: Apart) -> None:
    first, second = apart.call(os.getpid), apart.call(os.getpid)
    assert first == second != os.getpid()


def has_imported(module: str) -> bool:
    return module in sys.modules


def test_it_is_started_ahead_with_what_it_will_need() -> None:
    with Apart() as apart:
        apart.start("tabnanny")
        assert apart.call(has_imported, "tabnanny")
    assert "tabnanny" not in sys.modules


def test_an_error_comes_back_as_itself_without_the_text_of_the_other_process(apart: Apart) -> None:
    with pytest.raises(WorkerError, match="DOE is refused") as raised:
        apart.call(refuse, "DOE")
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("signum", ENDING)
def test_what_ends_the_worker_in_good_order_leaves_its_other_process_at_work(
    apart: Apart, signum: signal.Signals
) -> None:
    other = apart.call(os.getpid)
    os.kill(other, signum)
    assert apart.call(os.getpid) == other


class Quoted:
    """A value that is quoted when the other process receives it, as pydicom does with what is not valid."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return warnings.warn, ("Patient DOE^JANE",)


def test_nothing_is_logged_there(capfd: pytest.CaptureFixture[str]) -> None:
    with Apart() as apart:
        apart.call(logging.error, "Patient DOE^JANE")
        apart.call(type, Quoted())
    assert "DOE" not in "".join(capfd.readouterr())


def test_what_the_other_process_dies_of_is_done_here_and_the_next_in_a_new_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Apart() as apart:
        before = apart.call(os.getpid)
        assert apart.call(die_elsewhere, os.getpid()) == os.getpid()
        assert "its work is done here" in caplog.text
        assert apart.call(os.getpid) not in {before, os.getpid()}


def test_one_that_two_calls_waited_for_is_one_that_died(caplog: pytest.LogCaptureFixture) -> None:
    with Apart() as apart, ThreadPoolExecutor(2) as callers:
        apart.call(os.getpid)
        list(callers.map(apart.call, (die_a_little_later,) * 2, (os.getpid(),) * 2))
        assert len(caplog.records) == 1
        assert apart.call(os.getpid) != os.getpid()


def test_after_two_in_a_row_that_died_all_is_done_here() -> None:
    with Apart() as apart:
        for _ in range(2):
            apart.call(die_elsewhere, os.getpid())
        assert apart.call(os.getpid) == os.getpid()


@pytest.mark.parametrize(
    "refusing", ["multiprocessing.util.spawnv_passfds", "worker.processes.apart.ProcessPoolExecutor"]
)
def test_where_the_system_gives_no_other_process_it_is_done_here(
    refusing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse_to_make(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(refusing, refuse_to_make)
    with Apart() as apart:
        apart.start()
        assert apart.call(os.getpid) == os.getpid()
    assert "No process beside this one" in caplog.text


def test_the_other_process_ends_with_a_worker_that_is_killed() -> None:
    script = (
        "import os, time\nfrom worker.processes.apart import Apart\n"
        "if __name__ == '__main__':\n    print(Apart().call(os.getpid), flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as worker:
        assert worker.stdout is not None
        other = int(worker.stdout.readline())
        worker.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{other}").exists() and "Z" not in Path(f"/proc/{other}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "it goes on without its worker"
        time.sleep(0.05)
