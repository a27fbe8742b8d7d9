# SPDX-License-Identifier: Apache-2.0
"""The next slide is fetched while one is encoded: at most one, only when that one is nearly done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from clam_core.run import EncoderTurn
from tests.support.scripted_server import Answer, Call, ScriptedRequest, ScriptedServer
from tests.unit.worker.conftest import Rig, good_analysis
from worker.api.contract import Lease, ModelOffer
from worker.jobs.delivery import Delivery
from worker.jobs.job import Analysis, StageReport
from worker.serving.daemon import Mode
from worker.serving.spool import Spool, SpoolLimits

FIRST, SECOND, THIRD = "a" * 32, "b" * 32, "c" * 32


class TwoSlides:
    """An analysis like the real one: reading, the encoder's turn, the rest; the test holds each step."""

    offers = (ModelOffer("test-model", "1", "0" * 64),)
    default_model = "test-model"
    device = "cpu"

    def __init__(self) -> None:
        self.remaining_s = 5.0
        self.may_encode = threading.Event()
        self.may_end = threading.Event()
        self.steps: list[tuple[str, str]] = []

    def analyze(
        self, slide: Any, request: Mapping[str, Any], report: StageReport, turn: EncoderTurn
    ) -> Analysis:
        name = request["request_id"][0]
        report("tissue", 1.0)
        self.steps.append((name, "ready"))
        report("wait", 0.0)
        with turn():
            self.steps.append((name, "encode"))
            self._until(self.may_encode, lambda: report("encode", 0.5, "half", remaining_s=self.remaining_s))
            self.steps.append((name, "encoded"))
        self._until(self.may_end, lambda: report("heatmap", 0.5))
        return good_analysis(request, report)

    @staticmethod
    def _until(event: threading.Event, report: Callable[[], None]) -> None:
        report()
        while not event.wait(0.01):
            report()


@pytest.fixture
def analysis(rig: Rig) -> TwoSlides:
    found = TwoSlides()
    rig.analyzer = found  # type: ignore[assignment]
    return found


@contextmanager
def running(rig: Rig, analysis: TwoSlides, mode: Mode = Mode.FOREVER) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=rig.daemon().run, args=(mode,), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        analysis.may_encode.set()
        analysis.may_end.set()
        rig.shutdown.ask()
        thread.join(10)
    assert not thread.is_alive()


def beats(server: ScriptedServer, request_id: str) -> list[Call]:
    return server.calls_to(f"/update-status/{request_id}")


def claims_ahead(server: ScriptedServer) -> list[Call]:
    return [call for call in server.calls_to("/claim") if call.json.get("prefetch")]


def test_the_next_slide_is_opened_and_made_ready_while_this_one_is_encoded(
    rig: Rig, server: ScriptedServer, analysis: TwoSlides
) -> None:
    server.add_request(FIRST)
    server.add_request(SECOND)
    with running(rig, analysis):
        server.wait_for(lambda: ("b", "ready") in analysis.steps)
        assert ("a", "encoded") not in analysis.steps
        assert ("b", "encode") not in analysis.steps, "the encoder has one place"
        analysis.may_encode.set()
        server.wait_for(lambda: ("b", "encode") in analysis.steps)
        assert server.requests[FIRST].status == "processing", "its heatmap is drawn beside the next slide"
    assert analysis.steps.index(("a", "encoded")) < analysis.steps.index(("b", "encode"))
    assert {request.status for request in server.requests.values()} == {"completed"}


def test_nothing_is_claimed_ahead_while_this_slide_needs_long(
    rig: Rig, server: ScriptedServer, analysis: TwoSlides
) -> None:
    analysis.remaining_s = 21.0
    server.add_request(FIRST)
    server.add_request(SECOND)
    with running(rig, analysis):
        server.wait_for(lambda: ("a", "encode") in analysis.steps)
        threading.Event().wait(0.6)
        assert server.requests[SECOND].status == "pending"
        analysis.remaining_s = 19.0
        server.wait_for(lambda: server.requests[SECOND].status == "processing")


def test_at_most_one_slide_is_fetched_ahead(rig: Rig, server: ScriptedServer, analysis: TwoSlides) -> None:
    for request_id in (FIRST, SECOND, THIRD):
        server.add_request(request_id)
    with running(rig, analysis):
        server.wait_for(lambda: ("b", "ready") in analysis.steps)
        analysis.may_encode.set()
        server.wait_for(lambda: ("b", "encoded") in analysis.steps)
        threading.Event().wait(0.6)
        assert server.requests[THIRD].status == "pending", "the first one is still in hand"


def test_heartbeats_say_that_a_slide_was_fetched_ahead_until_it_begins(
    rig: Rig, server: ScriptedServer, analysis: TwoSlides
) -> None:
    server.add_request(FIRST)
    server.add_request(SECOND)
    with running(rig, analysis):
        server.wait_for(lambda: len(beats(server, SECOND)) >= 2)
        assert all(call.json.get("prefetch") is True for call in beats(server, SECOND))
        assert not any("prefetch" in call.json for call in beats(server, FIRST))
        analysis.may_encode.set()
        server.wait_for(lambda: "prefetch" not in beats(server, SECOND)[-1].json)


def test_an_idle_worker_may_have_the_slide_and_the_first_one_goes_on(
    rig: Rig, server: ScriptedServer, analysis: TwoSlides
) -> None:
    server.add_request(FIRST)
    server.add_request(SECOND)
    with running(rig, analysis):
        server.wait_for(lambda: ("b", "ready") in analysis.steps)
        server.take_over(SECOND)
        learned, goes_on = len(beats(server, SECOND)) + 1, len(beats(server, FIRST)) + 2
        server.wait_for(lambda: len(beats(server, SECOND)) >= learned)
        server.wait_for(lambda: len(beats(server, FIRST)) >= goes_on)
        analysis.may_encode.set()
        analysis.may_end.set()
        server.wait_for(lambda: server.requests[FIRST].status == "completed")
    assert server.requests[SECOND].completion is None
    assert ("b", "encode") not in analysis.steps


def test_a_cancel_of_the_slide_ahead_drops_that_one_alone(
    rig: Rig, server: ScriptedServer, analysis: TwoSlides
) -> None:
    def cancel_second(request: ScriptedRequest) -> Answer:
        return 200, {"success": True, "cancel": request.request_id == SECOND, "drain": False}, {}

    server.heartbeat_answer = cancel_second
    server.add_request(FIRST)
    server.add_request(SECOND)
    with running(rig, analysis):
        server.wait_for(lambda: server.requests[SECOND].status == "cancelled")
        analysis.may_encode.set()
        analysis.may_end.set()
        server.wait_for(lambda: server.requests[FIRST].status == "completed")


def test_a_polite_shutdown_finishes_the_slide_in_work_and_hands_the_one_ahead_back(
    rig: Rig, server: ScriptedServer, analysis: TwoSlides
) -> None:
    server.add_request(FIRST)
    server.add_request(SECOND)
    with running(rig, analysis):
        server.wait_for(lambda: ("b", "ready") in analysis.steps)
        rig.shutdown.ask()
        server.wait_for(lambda: server.requests[SECOND].status == "pending")
        assert server.requests[FIRST].status == "processing"
    assert server.requests[FIRST].status == "completed"
    assert server.requests[SECOND].completion is None


def test_a_second_asking_hands_both_back(rig: Rig, server: ScriptedServer, analysis: TwoSlides) -> None:
    server.add_request(FIRST)
    server.add_request(SECOND)
    with running(rig, analysis) as thread:
        server.wait_for(lambda: ("b", "ready") in analysis.steps)
        rig.shutdown.ask()
        rig.shutdown.ask()
        thread.join(5)
        assert [server.requests[name].status for name in (FIRST, SECOND)] == ["pending", "pending"]


def test_an_older_server_gives_an_ordinary_lease_and_that_is_kept(
    rig: Rig, server: ScriptedServer, analysis: TwoSlides
) -> None:
    server.leases_ahead = False
    server.add_request(FIRST)
    server.add_request(SECOND)
    with running(rig, analysis):
        server.wait_for(lambda: bool(beats(server, SECOND)))
        assert not any("prefetch" in call.json for call in beats(server, SECOND))
        analysis.may_encode.set()
        analysis.may_end.set()
        server.wait_for(lambda: server.requests[SECOND].status == "completed")


def test_a_run_of_one_claims_nothing_ahead(rig: Rig, server: ScriptedServer, analysis: TwoSlides) -> None:
    server.add_request(FIRST)
    server.add_request(SECOND)
    analysis.may_encode.set()
    analysis.may_end.set()
    with running(rig, analysis, Mode.ONCE) as thread:
        thread.join(5)
    assert claims_ahead(server) == []
    assert server.requests[SECOND].status == "pending"


@pytest.mark.parametrize("mode", [Mode.FOREVER, Mode.UNTIL_EMPTY])
def test_a_server_that_fails_meanwhile_costs_the_slide_in_work_nothing(
    rig: Rig, server: ScriptedServer, analysis: TwoSlides, mode: Mode
) -> None:
    def refuse_claims(call: Call) -> Answer:
        if "/claim" in call.path and call.json.get("prefetch"):
            return 500, {"success": False, "code": "internal", "error": "Scripted."}, {}
        return answer(call)

    answer = server.answer
    server.answer = refuse_claims  # type: ignore[method-assign]
    server.add_request(FIRST)
    with running(rig, analysis, mode):
        server.wait_for(lambda: len(claims_ahead(server)) > 6)
        analysis.may_encode.set()
        analysis.may_end.set()
        server.wait_for(lambda: server.requests[FIRST].status == "completed")


def test_claims_ahead_keep_to_the_pause_that_the_server_asks_for_while_the_slide_lasts(
    rig: Rig, server: ScriptedServer, analysis: TwoSlides
) -> None:
    rig.environment["LONG_POLL"] = "0"
    server.retry_after = "30"
    server.add_request(FIRST)
    with running(rig, analysis):
        server.wait_for(lambda: bool(claims_ahead(server)))
        threading.Event().wait(2.5)
        assert len(claims_ahead(server)) == 1
        asked = len(server.calls_to("/claim"))
        analysis.may_encode.set()
        analysis.may_end.set()
        server.wait_for(lambda: len(server.calls_to("/claim")) > asked)


def test_a_waiting_result_on_a_dead_line_keeps_no_slide_from_being_handed_back(
    rig: Rig, server: ScriptedServer, analysis: TwoSlides
) -> None:
    def hang(call: Call) -> Answer:
        if call.method == "PUT":
            alive.wait(60)
        return answer(call)

    alive = threading.Event()
    answer = server.answer
    server.answer = hang  # type: ignore[method-assign]
    rig.environment.update({"SHUTDOWN": "handback", "READ_TIMEOUT": "60"})
    server.add_request(FIRST)
    with running(rig, analysis):
        server.wait_for(lambda: ("a", "encode") in analysis.steps)
        artifacts = {"heatmap.png": b"picture"}
        body = {"artifacts": [{"name": "heatmap.png", "size": 7, "sha256": "0"}]}
        beside = Spool(rig.folder / "beside" / "lab-1", SpoolLimits(1_000_000, 3600))
        beside.store(Delivery(THIRD, Lease("0" * 32, 1, 60, 15, 15), body, artifacts))
        # In one step: the worker, whose own folder it is, tidies away what is half written.
        (rig.folder / "beside").rename(rig.folder / "spool")
        server.wait_for(lambda: any(call.method == "PUT" for call in server.calls))
        rig.shutdown.ask()
        server.wait_for(lambda: server.requests[FIRST].status == "pending")
        alive.set()
