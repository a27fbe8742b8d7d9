# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which workers there are, by what they said last; and which models a site lets them run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orthanc_plugin.errors import ApiError
from orthanc_plugin.fleet.drained import Drained
from orthanc_plugin.fleet.workers import Worker, Workers, permits
from orthanc_plugin.host.memory_gateway import MemoryGateway
from orthanc_plugin.queue.values import Grant, Model
from orthanc_plugin.setting_values import PermittedModel
from tests.support.fake_clock import FakeClock
from tests.support.sites import settings_of

MODEL = Model("oral", "2", "a" * 64)
GRANT = Grant(1, "lab", "worker", "t" * 64, MODEL, "f", 0.0)


class Heard:
    """Workers under a clock that is moved by hand."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.workers = Workers(self.clock, Drained(MemoryGateway(), 5000, lambda _: None))

    def claims(self, process: str | None = None, worker_id: str = "lab") -> bool:
        now, monotonic = self.clock.now(), self.clock.monotonic()
        return self.workers.claimed(
            Worker(worker_id, "worker", "", "", (MODEL,), None, now, monotonic, process=process)
        )

    def alive(self) -> list[str]:
        return [worker.worker_id for worker in self.workers.alive()]


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_a_worker_is_gone_after_a_minute_and_a_half_of_silence(heard: Heard) -> None:
    heard.claims()
    heard.clock.advance(90)
    assert heard.alive() == ["lab"]
    heard.clock.advance(0.5)
    assert heard.alive() == []
    heard.workers.heard(GRANT, {})
    assert heard.alive() == ["lab"]
    assert heard.workers.all()[0].seen == heard.clock.now()


def test_a_worker_that_said_goodbye_is_back_with_its_next_heartbeat(heard: Heard) -> None:
    heard.claims("a")
    heard.workers.left("lab", "worker", "a")
    assert heard.alive() == []
    heard.workers.heard(GRANT, {})
    assert heard.alive() == ["lab"]


@pytest.mark.parametrize(("tokenless", "silence_s", "models"), [(False, 90, (MODEL,)), (True, 1800, ())])
def test_a_worker_known_by_its_lease_alone_offers_what_it_runs_an_older_one_nothing(
    heard: Heard, tokenless: bool, silence_s: float, models: tuple[Model, ...]
) -> None:
    heard.workers.heard(replace(GRANT, tokenless=tokenless), {})
    assert [worker.models for worker in heard.workers.alive()] == [models]
    heard.clock.advance(silence_s)
    assert heard.alive() == ["lab"]
    heard.clock.advance(0.5)
    assert heard.alive() == []


def test_older_workers_look_for_work_until_a_minute_and_a_half_after_their_last_look(heard: Heard) -> None:
    assert not heard.workers.is_polled()
    heard.workers.polled("older")
    heard.clock.advance(90)
    assert heard.workers.is_polled()
    heard.clock.advance(0.5)
    assert not heard.workers.is_polled()


def test_of_many_workers_the_latest_200_are_known(heard: Heard) -> None:
    for number in range(201):
        heard.claims(worker_id=f"w{number}")
    assert [worker.worker_id for worker in heard.workers.all()] == [f"w{number}" for number in range(1, 201)]


@pytest.mark.parametrize(
    ("processes", "shared"),
    [
        ("aaa", False),
        ("ab", False),  # started anew
        ("aba", True),
        ("abaa", True),
        ("abba", True),
        ("a-a", False),  # one that does not say which process it is tells nothing
    ],
)
def test_two_processes_that_take_turns_share_a_name(heard: Heard, processes: str, shared: bool) -> None:
    told = [heard.claims(None if process == "-" else process) for process in processes]
    assert heard.workers.shares_name("lab") is shared
    assert sum(told) == shared
    heard.clock.advance(91)
    assert not heard.workers.shares_name("lab")


def test_only_a_worker_that_was_heard_of_is_drained(heard: Heard) -> None:
    with pytest.raises(ApiError) as caught:
        heard.workers.set_drain("lab", drain=True)
    assert (caught.value.status, caught.value.code) == (404, "unknown_worker")
    heard.claims()
    heard.workers.set_drain("lab", drain=True)
    assert heard.alive() == []


@pytest.mark.parametrize(
    ("permitted", "expected"),
    [
        (PermittedModel("oral"), True),
        (PermittedModel("oral", "2", "a" * 64), True),
        (PermittedModel("other"), False),
        (PermittedModel("oral", "1"), False),
        (PermittedModel("oral", sha256="b" * 64), False),
        (PermittedModel("oral", enabled=False), False),
    ],
)
def test_a_site_permits_a_model_by_its_name_and_by_version_and_file_where_it_gives_them(
    permitted: PermittedModel, expected: bool
) -> None:
    settings = replace(settings_of(), models=(PermittedModel("another"), permitted))
    assert permits(settings, MODEL) is expected
