# SPDX-License-Identifier: Apache-2.0
"""One process for each device: which, how they are watched, started again and ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping

import pytest

from tests.support.wait import wait_until
from worker.backoff import Backoff
from worker.errors import SettingsError
from worker.processes.notify import from_environment
from worker.processes.posts import Post, posts
from worker.processes.shutdown import ShutdownRequest
from worker.processes.supervisor import SILENT_S, Supervisor


def devices_of(devices: str, gpus: int = 2, cores: int = 8) -> list[tuple[str, str, int | None]]:
    return [
        (post.device, post.worker_id, post.threads) for post in posts(devices, "lab", lambda: gpus, cores)
    ]


def test_all_is_a_process_for_every_gpu_each_with_a_name_of_its_own() -> None:
    assert devices_of("all") == [("cuda:0", "lab-cuda0", None), ("cuda:1", "lab-cuda1", None)]


def test_a_list_is_taken_as_it_stands_and_processes_on_the_cpu_share_its_cores() -> None:
    assert devices_of("cpu, cpu,cuda:1") == [
        ("cpu", "lab-cpu-1", 4),
        ("cpu", "lab-cpu-2", 4),
        ("cuda:1", "lab-cuda1", None),
    ]
    assert devices_of("cpu") == [("cpu", "lab-cpu", None)]


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ("all", "no GPU.*nvidia-smi"),
        ("gpu0", "'gpu0' is no device"),
        ("cpu,", "'' is no device"),
        ("auto", "auto"),
    ],
)
def test_what_is_no_device_is_refused_with_what_to_write(devices: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        devices_of(devices, gpus=0)


def test_a_name_that_gets_too_long_is_refused() -> None:
    with pytest.raises(SettingsError, match="shorten WORKER_ID"):
        posts("cpu", "l" * 62, lambda: 0, 1)


class FakeProcess:
    """A process whose end the test decides."""

    def __init__(self, post: Post, environment: Mapping[str, str], pid: int) -> None:
        self.post, self.pid = post, pid
        self.code: int | None = None
        self.signals: list[int] = []
        self.killed = False
        self.supervision = from_environment(environment)

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, sig: int) -> None:
        self.signals.append(sig)

    def kill(self) -> None:
        self.killed, self.code = True, -9


class Bench:
    """A supervisor over fake processes, its clock in the test's hand."""

    def __init__(self, *names: str, refused_starts: int = 0) -> None:
        self.now = 1000.0
        self.told: list[str] = []
        self._looks = 0
        self._refused_starts = refused_starts
        self.started: list[FakeProcess] = []
        self.shutdown = ShutdownRequest()
        self.code: list[int] = []
        self._supervisor = Supervisor(
            [Post("cpu", name) for name in names],
            self._start,
            self.shutdown,
            self,
            backoff=Backoff(base_s=8.0, cap_s=300.0, uniform=lambda _low, high: high),
            clock=lambda: self.now,
        )
        self._thread = threading.Thread(target=lambda: self.code.append(self._supervisor.run()), daemon=True)
        self._thread.start()

    def ready(self) -> None:
        self.told.append("ready")

    def alive(self, doing: str) -> None:
        """Count: it is told each time the supervisor looks around."""
        self._looks += 1

    def stopping(self) -> None:
        self.told.append("stopping")

    def _start(self, post: Post, environment: Mapping[str, str]) -> FakeProcess:
        if self._refused_starts:
            self._refused_starts -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.started.append(FakeProcess(post, environment, len(self.started)))
        return self.started[-1]

    def until(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, seconds=4)

    def settle(self) -> None:
        """Let the supervisor look at everything once more, at least."""
        seen = self._looks
        self.until(lambda: self._looks >= seen + 2)

    def ended(self) -> int:
        self._thread.join(5)
        assert not self._thread.is_alive()
        return self.code[0]

    def end_all(self) -> None:
        for process in self.started:
            process.code = process.code if process.code is not None else 0
        assert self.ended() == 0


def test_a_process_that_fails_is_started_again_after_a_while_and_the_other_goes_on() -> None:
    bench = Bench("a", "b")
    bench.until(lambda: len(bench.started) == 2)
    bench.started[0].code = -11
    bench.settle()
    assert len(bench.started) == 2
    bench.now += 400
    bench.until(lambda: len(bench.started) == 3)
    assert bench.started[2].post.worker_id == "a"
    assert bench.started[1].signals == []
    bench.end_all()


def test_a_process_that_keeps_failing_is_started_ever_later_until_it_has_run_for_long() -> None:
    bench = Bench("a")
    bench.until(lambda: len(bench.started) == 1)
    bench.started[0].code = 1
    bench.settle()
    bench.now += 9
    bench.until(lambda: len(bench.started) == 2)
    bench.started[1].code = 1
    bench.settle()
    bench.now += 9
    bench.settle()
    assert len(bench.started) == 2
    bench.now += 8
    bench.until(lambda: len(bench.started) == 3)
    bench.now += 601
    bench.started[2].code = 1
    bench.settle()
    bench.now += 9
    bench.until(lambda: len(bench.started) == 4)
    bench.end_all()


def test_one_that_a_person_drained_stays_ended_and_the_end_of_all_is_the_end() -> None:
    bench = Bench("a", "b")
    bench.until(lambda: len(bench.started) == 2)
    bench.started[0].code = 0
    bench.settle()
    bench.now += 10_000
    bench.settle()
    assert len(bench.started) == 2
    bench.started[1].code = 0
    assert bench.ended() == 0


def test_settings_that_let_none_begin_end_it_at_once() -> None:
    bench = Bench("a", "b")
    bench.until(lambda: len(bench.started) == 2)
    for process in bench.started:
        process.code = 2
    assert bench.ended() == 2


def test_where_it_gives_up_it_says_so_and_announces_no_further_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench("a")
    bench.until(lambda: len(bench.started) == 1)
    bench.started[0].code = 2
    assert bench.ended() == 2
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == [
        "Worker a ended with code 2.",
        "No worker can begin before what is said above is set right: none is started again.",
    ]


def test_settings_that_let_none_begin_end_it_though_one_is_being_tried_again() -> None:
    bench = Bench("a", "b")
    bench.until(lambda: len(bench.started) == 2)
    bench.started[0].code = 2
    bench.settle()
    bench.now += 400
    bench.until(lambda: len(bench.started) == 3)
    bench.started[1].code = 2
    bench.until(lambda: bench.started[2].signals == [signal.SIGTERM])
    bench.started[2].code = -15
    assert bench.ended() == 2
    assert len(bench.started) == 3


def test_a_process_that_cannot_be_started_for_now_costs_the_others_nothing() -> None:
    bench = Bench("a", "b", refused_starts=1)
    bench.until(lambda: len(bench.started) == 1)
    assert bench.started[0].post.worker_id == "b"
    bench.settle()
    assert len(bench.started) == 1, "it is tried again after a while"
    bench.now += 400
    bench.until(lambda: len(bench.started) == 2)
    assert bench.started[1].post.worker_id == "a"
    bench.end_all()


def test_it_is_ready_when_the_first_worker_is() -> None:
    bench = Bench("a", "b")
    bench.until(lambda: len(bench.started) == 2)
    bench.settle()
    assert bench.told == []
    for process in bench.started:
        process.supervision.ready()
    bench.until(lambda: bench.told == ["ready"])
    bench.end_all()
    assert bench.told == ["ready", "stopping"]


def test_settings_that_keep_one_from_beginning_leave_the_other_alone() -> None:
    bench = Bench("a", "b")
    bench.until(lambda: len(bench.started) == 2)
    bench.started[0].code = 2
    bench.settle()
    assert bench.code == []
    bench.now += 400
    bench.until(lambda: len(bench.started) == 3)
    bench.end_all()


def test_each_asking_for_the_end_is_passed_on_and_nothing_is_started_again() -> None:
    bench = Bench("a", "b")
    bench.until(lambda: len(bench.started) == 2)
    bench.shutdown.ask()
    bench.until(lambda: [process.signals for process in bench.started] == [[signal.SIGTERM]] * 2)
    bench.shutdown.ask()
    bench.until(lambda: [process.signals for process in bench.started] == [[signal.SIGTERM] * 2] * 2)
    bench.started[0].code = -15
    bench.now += 10_000
    bench.settle()
    assert len(bench.started) == 2
    bench.end_all()


def test_a_process_that_falls_silent_is_killed_and_one_that_never_spoke_is_left_to_load() -> None:
    bench = Bench("a", "b")
    bench.until(lambda: len(bench.started) == 2)
    bench.started[0].supervision.alive("waiting")
    bench.settle()
    bench.now += SILENT_S - 1
    bench.settle()
    assert not bench.started[0].killed
    bench.now += 2
    bench.until(lambda: bench.started[0].killed)
    assert not bench.started[1].killed
    bench.settle()
    bench.now += 400
    bench.until(lambda: len(bench.started) == 3)
    bench.end_all()
