# SPDX-License-Identifier: Apache-2.0
"""The loop: claim, work, send, against a server that misbehaves on purpose."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clam_core.errors import NoTissueError
from tests.support.orthanc_server import free_port
from tests.support.scripted_server import Answer, Call, Fault, Page, ScriptedRequest, ScriptedServer
from tests.unit.worker.conftest import NoSlide, Rig, good_analysis
from worker.api.client import PluginClient
from worker.api.contract import Claim, Lease
from worker.backoff import Backoff
from worker.errors import RefusedError, UnauthorizedError, UnreachableError
from worker.jobs.delivery import Delivery
from worker.jobs.job import Analysis, StageReport, queue_seconds
from worker.serving.daemon import Mode
from worker.serving.outbox import Outbox
from worker.serving.spool import Spool
from worker.sources.errors import SourceUnauthorizedError

REQUEST_ID = "a" * 32


class Held:
    """An analysis that goes on until it is let go, checking as a real one does."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self, request: Mapping[str, Any], report: StageReport) -> Analysis:
        self.begun.set()
        while not self.may_end.wait(0.01):
            report("encode", 0.5, "held")
        return good_analysis(request, report)


def test_a_request_is_claimed_analysed_and_completed_with_its_artifacts(
    rig: Rig, server: ScriptedServer
) -> None:
    request = server.add_request()
    rig.daemon().run(Mode.ONCE)
    assert request.status == "completed"
    assert set(request.artifacts) == {"heatmap.png", "attention.npz"}
    body = server.calls_to("/complete-request/")[-1].json
    assert body["fingerprint"] == "f" * 64
    assert [item["name"] for item in body["artifacts"]] == ["heatmap.png", "attention.npz"]
    assert body["result"]["slide"] == {"series_instance_uid": "1.2.3", "fingerprint": "f" * 64}
    assert body["result"]["software"]["device"] == "cpu"


@pytest.mark.parametrize(
    "quality",
    [{"status": "ok"}, {"status": "abstained", "reason": "The model abstains: why."}],
)
def test_the_log_names_the_slide_and_never_what_was_found(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture, quality: dict[str, str]
) -> None:
    server.add_request()

    def analysis(request: Mapping[str, Any], report: StageReport) -> Analysis:
        found = good_analysis(request, report)
        return replace(found, result={**found.result, "quality": quality})

    rig.analyzer.work = analysis
    with caplog.at_level("DEBUG"):
        rig.daemon().run(Mode.ONCE)
    assert any(text.startswith("Analysed in") for text in caplog.messages)
    for finding in ("tumor", "normal", "0.8", "why"):
        assert not [text for text in caplog.messages if finding in text]


def test_a_result_tells_the_time_of_each_stage(rig: Rig, server: ScriptedServer) -> None:
    server.add_request()
    rig.daemon().run(Mode.ONCE)
    timings = server.calls_to("/complete-request/")[-1].json["result"]["timings_s"]
    assert list(timings) == ["queue", "open", "encode", "publish"]
    assert timings["queue"] == 0.5


def test_a_claim_names_the_models_the_device_and_the_contract(rig: Rig, server: ScriptedServer) -> None:
    server.add_request()
    rig.daemon().run(Mode.ONCE)
    body = server.calls_to("/claim")[0].json
    assert body["models"] == [{"name": "test-model", "version": "1", "sha256": "0" * 64}]
    assert (body["worker_id"], body["api"], body["default_model"], body["device"]) == (
        "lab-1",
        1,
        "test-model",
        "cpu",
    )
    assert len(body["token"]) == 32


@pytest.mark.parametrize(
    "route", ["/claim", "/update-status/", "/artifacts/heatmap.png", "/complete-request/"]
)
@pytest.mark.parametrize("fault", list(Fault))
def test_one_fault_anywhere_costs_nothing(rig: Rig, server: ScriptedServer, route: str, fault: Fault) -> None:
    request = server.add_request()
    server.misbehave(route, fault)
    rig.daemon().run(Mode.ONCE)
    assert request.status == "completed"
    assert (request.fence, rig.analyzer.analyzed) == (1, [REQUEST_ID])


def test_a_worker_that_ends_says_goodbye_after_all_its_work(rig: Rig, server: ScriptedServer) -> None:
    server.add_request()
    rig.daemon().run(Mode.ONCE)
    last = server.calls[-1]
    assert (last.path, last.json["leaving"], last.json["models"]) == ("/pathology/claim", True, [])


def test_a_worker_that_shares_its_name_is_told_so_once(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.shares_name = True
    server.add_request()
    daemon = rig.daemon()
    daemon.run(Mode.UNTIL_EMPTY)
    assert len([text for text in caplog.messages if "WORKER_ID" in text]) == 1
    assert {call.json["process"] for call in server.calls_to("/claim")} != {None}


def test_a_lost_claim_is_repeated_with_the_same_token(rig: Rig, server: ScriptedServer) -> None:
    server.add_request()
    server.misbehave("/claim", Fault.DROP_AFTER)
    rig.daemon().run(Mode.ONCE)
    first, second = (call.json["token"] for call in server.calls_to("/claim")[:2])
    assert first == second


def test_each_claim_that_was_answered_is_followed_by_another_token(rig: Rig, server: ScriptedServer) -> None:
    server.add_request("a" * 32)
    server.add_request("b" * 32)
    rig.daemon().run(Mode.UNTIL_EMPTY)
    tokens = [call.json["token"] for call in server.calls_to("/claim")]
    assert len(tokens) >= 3
    assert len(set(tokens)) == len(tokens)


def test_drain_when_empty_serves_all_and_ends(rig: Rig, server: ScriptedServer) -> None:
    requests = [server.add_request(letter * 32) for letter in "abc"]
    end = rig.daemon().run(Mode.UNTIL_EMPTY)
    assert end.served == 3
    assert {request.status for request in requests} == {"completed"}


def test_a_failure_ends_its_request_with_code_and_sentence_and_the_next_one_is_served(
    rig: Rig, server: ScriptedServer
) -> None:
    def work(request: Mapping[str, Any], report: StageReport) -> Analysis:
        if request["request_id"] == REQUEST_ID:
            raise NoTissueError("No tissue was found: choose another preset.")
        return good_analysis(request, report)

    rig.analyzer.work = work
    blank, good = server.add_request(REQUEST_ID), server.add_request("b" * 32)
    rig.daemon().run(Mode.UNTIL_EMPTY)
    assert blank.document["error"] == {
        "code": "no_tissue",
        "message": "No tissue was found: choose another preset.",
        "retryable": False,
    }
    assert (blank.status, good.status) == ("failed", "completed")


def test_a_full_disk_in_the_analysis_is_a_retryable_sentence(rig: Rig, server: ScriptedServer) -> None:
    def work(request: Mapping[str, Any], report: StageReport) -> Analysis:
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/SMITH^JOHN.h5")

    rig.analyzer.work = work
    request = server.add_request()
    rig.daemon().run(Mode.ONCE)
    error = request.document["error"]
    assert (error["code"], error["retryable"]) == ("disk_full", True)
    assert "free space" in error["message"]


def test_a_fault_of_the_workers_own_tells_neither_server_nor_log_what_the_exception_quoted(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    def work(request: Mapping[str, Any], report: StageReport) -> Analysis:
        raise KeyError("PatientName SMITH^JOHN")

    rig.analyzer.work = work
    request = server.add_request()
    with caplog.at_level(logging.DEBUG):
        rig.daemon().run(Mode.ONCE)
    assert request.document["error"]["code"] == "internal"
    assert "SMITH" not in str(request.document["error"])
    assert "SMITH" not in "".join(record.getMessage() for record in caplog.records)


def test_heartbeats_carry_stage_and_progress_while_the_work_runs(rig: Rig, server: ScriptedServer) -> None:
    held = Held()
    rig.analyzer.work = held
    server.add_request()
    thread = rig.start()
    server.wait_for(
        lambda: any(call.json.get("stage") == "encode" for call in server.calls_to("/update-status/"))
    )
    held.may_end.set()
    server.wait_for(lambda: bool(server.calls_to("/complete-request/")))
    beat = next(
        call.json for call in server.calls_to("/update-status/") if call.json.get("stage") == "encode"
    )
    assert beat["status"] == "processing"
    assert 0.4 < beat["progress"] < 0.6
    rig.shutdown.ask()
    thread.join(5)
    assert not thread.is_alive()


def lease_lost(_: ScriptedRequest) -> Answer:
    return (
        409,
        {"success": False, "code": "lease_lost", "error": "Another worker holds this request now."},
        {},
    )


def source_deleted(_: ScriptedRequest) -> Answer:
    return 410, {"success": False, "code": "source_deleted", "error": "The series was deleted."}, {}


@pytest.mark.parametrize("answer", [lease_lost, source_deleted])
def test_a_lost_lease_or_a_deleted_series_drops_the_work_and_sends_nothing(
    rig: Rig, server: ScriptedServer, answer: Any
) -> None:
    rig.analyzer.work = Held()
    server.heartbeat_answer = answer
    server.add_request()
    rig.daemon().run(Mode.ONCE)
    assert server.calls_to("/complete-request/") == []
    assert server.calls_to("/artifacts/") == []
    assert list(rig.spool.waiting()) == []


def test_a_cancel_drops_the_work_and_confirms(rig: Rig, server: ScriptedServer) -> None:
    rig.analyzer.work = Held()
    server.heartbeat_answer = lambda _: (200, {"success": True, "cancel": True, "drain": False}, {})
    request = server.add_request()
    rig.daemon().run(Mode.ONCE)
    assert request.status == "cancelled"
    assert server.calls_to("/complete-request/") == []


def test_a_drain_finishes_the_request_in_work_and_takes_no_other(rig: Rig, server: ScriptedServer) -> None:
    server.heartbeat_answer = lambda _: (200, {"success": True, "cancel": False, "drain": True}, {})
    rig.analyzer.work = slow = Held()
    first, second = server.add_request("a" * 32), server.add_request("b" * 32)
    thread = rig.start()
    server.wait_for(rig.shutdown.drained.is_set)
    slow.may_end.set()
    thread.join(5)
    assert (first.status, second.status) == ("completed", "pending")


def test_a_heartbeat_that_is_put_off_for_long_is_followed_by_the_next_one(
    rig: Rig, server: ScriptedServer
) -> None:
    rig.analyzer.work = held = Held()
    server.stand_ins["/update-status/"] = Page(503, headers={"Retry-After": "90"})
    server.add_request()
    thread = rig.start()
    server.wait_for(lambda: len(server.calls_to("/update-status/")) > 2)
    held.may_end.set()
    rig.shutdown.ask()
    thread.join(5)
    assert not thread.is_alive()


def test_the_server_dictates_the_interval_of_heartbeats(rig: Rig, server: ScriptedServer) -> None:
    server.heartbeat_s = 30
    rig.analyzer.work = held = Held()
    server.add_request()
    thread = rig.start()
    held.begun.wait(5)
    threading.Event().wait(1.5)
    beats = [call.json["stage"] for call in server.calls_to("/update-status/")]
    assert len(beats) <= 2
    held.may_end.set()
    rig.shutdown.ask()
    thread.join(5)


def test_a_request_that_was_retried_has_waited_since_then() -> None:
    times = {"created": "2026-11-22T15:00:00Z", "updated": "2026-11-22T16:54:03.500Z"}
    assert queue_seconds({**times, "waiting_since": "2026-11-22T16:54:03Z"}) == 0.5
    assert queue_seconds(times) == 6843.5, "an older plugin does not say"


def test_stages_that_follow_each_other_within_a_second_share_a_heartbeat(
    rig: Rig, server: ScriptedServer
) -> None:
    def hurry(request: Mapping[str, Any], report: StageReport) -> Analysis:
        for stage in ("tissue", "patches", "known", "predict", "heatmap", "dicom"):
            report(stage, 0.5)
            threading.Event().wait(0.05)
        return good_analysis(request, report)

    rig.analyzer.work = hurry
    server.add_request()
    rig.daemon().run(Mode.ONCE)
    # Each stage would be one; a busy machine may take more than a second for them.
    assert len(server.calls_to("/update-status/")) < 6


def test_a_polite_shutdown_finishes_the_request_in_work(rig: Rig, server: ScriptedServer) -> None:
    rig.analyzer.work = held = Held()
    first, second = server.add_request("a" * 32), server.add_request("b" * 32)
    thread = rig.start()
    held.begun.wait(5)
    rig.shutdown.ask()
    held.may_end.set()
    thread.join(5)
    assert (first.status, second.status) == ("completed", "pending")


def test_handback_gives_the_request_back_at_the_first_asking(rig: Rig, server: ScriptedServer) -> None:
    rig.environment["SHUTDOWN"] = "handback"
    rig.analyzer.work = held = Held()
    request = server.add_request()
    thread = rig.start()
    held.begun.wait(5)
    rig.shutdown.ask()
    thread.join(5)
    assert not thread.is_alive()
    assert request.status == "pending"


def test_a_second_asking_hands_back_now(rig: Rig, server: ScriptedServer) -> None:
    rig.analyzer.work = held = Held()
    request = server.add_request()
    thread = rig.start()
    held.begun.wait(5)
    rig.shutdown.ask()
    rig.shutdown.ask()
    thread.join(5)
    assert request.status == "pending"
    assert server.calls_to("/complete-request/") == []


def test_a_shutdown_ends_an_open_long_poll_at_once_and_leaves_no_lease(
    rig: Rig, server: ScriptedServer
) -> None:
    thread = rig.start()
    server.wait_for(lambda: bool(server.calls_to("/claim")))
    rig.shutdown.ask()
    thread.join(2)
    assert not thread.is_alive()
    assert server.calls_to("/claim")[-2].json["wait"] == 0  # the last one is the goodbye


def test_a_request_that_arrives_in_the_very_moment_of_a_shutdown_is_handed_back(
    rig: Rig, server: ScriptedServer
) -> None:
    thread = rig.start()
    server.wait_for(lambda: bool(server.calls_to("/claim")))
    rig.shutdown.ask()
    request = server.add_request()
    thread.join(5)
    assert not thread.is_alive()
    assert (request.status, rig.analyzer.analyzed) == ("pending", [])
    assert request.fence in {0, 1}


def test_a_request_that_was_given_out_but_whose_answer_is_not_here_at_the_shutdown_is_handed_back(
    rig: Rig, server: ScriptedServer
) -> None:
    def late(call: Call) -> Answer:
        found = answer(call)
        if "/claim" in call.path and call.json.get("wait"):
            arrives.wait(10)
        return found

    arrives, answer = threading.Event(), server.answer
    server.answer = late  # type: ignore[method-assign]
    request = server.add_request()
    thread = rig.start()
    server.wait_for(lambda: request.status == "processing")
    rig.shutdown.ask()
    thread.join(5)
    arrives.set()
    assert not thread.is_alive()
    assert (request.status, rig.analyzer.analyzed) == ("pending", [])


def test_a_result_waits_on_disk_through_a_cut_and_arrives_at_the_next_start(
    rig: Rig, server: ScriptedServer
) -> None:
    request = server.add_request()
    server.accepts_results = False
    rig.daemon().run(Mode.ONCE)
    assert [delivery.request_id for delivery in rig.spool.waiting()] == [REQUEST_ID]
    server.accepts_results = True
    rig.daemon().run(Mode.UNTIL_EMPTY)
    assert request.status == "completed"
    assert list(rig.spool.waiting()) == []


def test_a_replayed_result_has_the_very_body_that_was_sent_before(rig: Rig, server: ScriptedServer) -> None:
    request = server.add_request()
    server.misbehave("/complete-request/", *[Fault.DROP_AFTER] * 4)
    rig.daemon().run(Mode.ONCE)
    assert len(list(rig.spool.waiting())) == 1
    rig.daemon().run(Mode.UNTIL_EMPTY)
    assert len({call.body for call in server.calls_to("/complete-request/")}) == 1
    assert request.status == "completed"
    assert list(rig.spool.waiting()) == []


def test_a_waiting_result_that_somebody_else_made_meanwhile_is_dropped(
    rig: Rig, server: ScriptedServer
) -> None:
    request = server.add_request()
    server.accepts_results = False
    rig.daemon().run(Mode.ONCE)
    server.accepts_results = True
    server.take_over(request.request_id)
    rig.daemon().run(Mode.UNTIL_EMPTY)
    assert list(rig.spool.waiting()) == []
    assert request.completion is None


def test_a_full_spool_disk_still_sends_the_result(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("worker.serving.spool._write_durably", full)
    request = server.add_request()
    rig.daemon().run(Mode.ONCE)
    assert request.status == "completed"
    assert "is full" in caplog.text


@pytest.mark.parametrize(("status", "code"), [(403, "forbidden_role"), (409, "upgrade_worker")])
def test_a_worker_that_is_turned_away_at_its_first_claim_ends_with_the_reason(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    monkeypatch.setattr(
        server,
        "answer",
        lambda call: (status, {"success": False, "code": code, "error": f"Why: {code}."}, {}),
    )
    with pytest.raises(RefusedError, match=code):
        rig.daemon().run()


def test_a_replay_whose_dicom_objects_the_server_lost_arrives_without_them(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {
        "token": "0" * 32,
        "artifacts": [{"name": "slide-report.dcm", "size": 1, "sha256": "0"}],
        "result": {"artifacts": ["slide-report.dcm"], "dicom": [{"modality": "SR"}], "timings_s": {}},
    }
    delivery = Delivery(REQUEST_ID, Lease("0" * 32, 1, 60, 15, 15), body)
    rig.spool.store(delivery)
    rig.spool.replace_body(delivery)
    seen: list[dict[str, Any]] = []

    def answer(call: Call) -> Answer:
        seen.append(call.json)
        if call.json["artifacts"]:
            return 409, {"success": False, "code": "artifact_mismatch", "error": "Send it again."}, {}
        return 200, {"success": True, "request": {}}, {}

    monkeypatch.setattr(server, "answer", answer)
    assert Outbox(rig.client(), rig.spool).replay()
    assert len(seen) == 2
    assert seen[-1]["result"]["quality"]["flags"] == ["dicom_results_not_kept"]
    assert list(rig.spool.waiting()) == []


def test_a_server_that_is_busy_costs_a_waiting_result_no_dicom_objects(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [{"name": "slide-report.dcm", "size": 1, "sha256": "0"}]
    result = {"artifacts": ["slide-report.dcm"], "dicom": [{"modality": "SR"}], "timings_s": {}}
    body = {"token": "0" * 32, "artifacts": refs, "result": result}
    delivery = Delivery(REQUEST_ID, Lease("0" * 32, 1, 60, 15, 15), body)
    rig.spool.store(delivery)
    rig.spool.replace_body(delivery)
    sent: list[Any] = []

    def answer(call: Call) -> Answer:
        sent.append(call.json["artifacts"])
        return 503, {"success": False, "code": "too_busy", "error": "Ask again."}, {}

    monkeypatch.setattr(server, "answer", answer)
    assert not Outbox(rig.client(), rig.spool).replay()
    assert sent
    assert all(named == refs for named in sent)
    assert next(rig.spool.waiting()).body == body


def test_after_a_poll_that_was_held_the_next_one_follows_at_once(rig: Rig, server: ScriptedServer) -> None:
    rig.environment["LONG_POLL"] = "0.3"
    server.retry_after = "60"
    thread = rig.start()
    server.wait_for(lambda: len(server.calls_to("/claim")) >= 3, seconds=5)
    rig.shutdown.ask()
    thread.join(5)


def test_after_a_poll_that_was_refused_the_worker_waits_as_the_server_says(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "answer", lambda call: (204, None, {"Retry-After": "60"}))
    thread = rig.start()
    threading.Event().wait(1.5)
    assert len(server.calls_to("/claim")) == 1
    rig.shutdown.ask()
    thread.join(5)
    assert not thread.is_alive()


def test_a_heartbeat_that_fails_for_a_fault_of_our_own_is_logged_and_the_next_one_goes_out(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failures = PluginClient.heartbeat, [RuntimeError("surprise")]

    def heartbeat(*arguments: Any, **named: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*arguments, **named)

    monkeypatch.setattr(PluginClient, "heartbeat", heartbeat)
    rig.analyzer.work = held = Held()
    request = server.add_request()
    thread = rig.start()
    server.wait_for(lambda: bool(server.calls_to("/update-status/")))
    held.may_end.set()
    server.wait_for(lambda: request.status == "completed")
    rig.shutdown.ask()
    thread.join(5)
    assert "fault of the worker's own" in caplog.text


def test_a_claim_that_fails_for_a_fault_of_our_own_ends_the_worker_instead_of_hanging_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim(*_: Any, **__: Any) -> Any:
        raise RuntimeError("surprise")

    monkeypatch.setattr(PluginClient, "claim", claim)
    with pytest.raises(RuntimeError, match="surprise"):
        rig.daemon().run()


def test_an_idle_worker_says_once_that_it_is_drained_and_once_that_it_is_no_more(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.drained = True
    request = server.add_request()
    with caplog.at_level("INFO"):
        thread = rig.start()
        server.wait_for(lambda: len(server.calls_to("/claim")) >= 4)
        server.drained = False
        server.wait_for(lambda: request.status == "completed")
        rig.shutdown.ask()
        thread.join(5)
    told = [text for text in caplog.messages if "drain" in text]
    assert told == [
        "A person has drained this worker: it is given nothing until that is ended.",
        "The drain of this worker was ended: it is given requests again.",
    ]


def test_a_result_with_a_value_that_is_no_number_fails_its_request_and_leaves_nothing_to_send_again(
    rig: Rig, server: ScriptedServer
) -> None:
    def work(request: Mapping[str, Any], report: StageReport) -> Analysis:
        good = good_analysis(request, report)
        return Analysis({**good.result, "patches": {"tissue_mm2": float("nan")}}, good.artifacts)

    request = server.add_request()
    rig.analyzer.work = work
    rig.daemon().run(Mode.ONCE)
    assert (request.status, server.calls_to("/complete-request/")[-1].json["error"]["code"]) == (
        "failed",
        "non_finite",
    )
    assert list(rig.spool.waiting()) == []


def test_a_spool_that_cannot_be_read_keeps_no_request_from_being_served(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_spool: Spool) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Spool, "_entries", broken)
    request = server.add_request()
    rig.daemon().run(Mode.ONCE)
    assert request.status == "completed"


def test_a_result_that_arrived_although_its_answer_was_lost_is_known_to_have_arrived(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    def work(request: Mapping[str, Any], report: StageReport) -> Analysis:
        good = good_analysis(request, report)
        return Analysis({**good.result, "slide": {"container_id": "S26-1"}}, good.artifacts)

    request = server.add_request()
    rig.analyzer.work = work
    # The spool does not hold the number on the glass, so a replay is not the very body that was sent.
    server.misbehave("/complete-request/", *[Fault.DROP_AFTER] * 4)
    rig.daemon().run(Mode.ONCE)
    with caplog.at_level("INFO"):
        rig.daemon().run(Mode.UNTIL_EMPTY)
    assert "The server has this result already." in caplog.text
    assert list(rig.spool.waiting()) == []
    assert request.completion is not None
    assert b"S26-1" in request.completion


def test_a_worker_that_meets_something_else_at_its_first_claim_goes_on_until_the_plugin_answers(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    request = server.add_request()
    server.stand_ins["/claim"] = Page(404)
    thread = rig.start()
    server.wait_for(lambda: len(server.calls_to("/claim")) > 2)
    server.stand_ins.clear()
    server.wait_for(lambda: request.status == "completed")
    rig.shutdown.ask()
    thread.join(5)
    assert "Something else than the plugin answered" in caplog.text


def test_a_server_that_answers_again_is_told_of_once(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    requests = [server.add_request(letter * 32) for letter in "ab"]
    server.stand_ins["/claim"] = Page(404)
    with caplog.at_level("INFO"):
        thread = rig.start()
        server.wait_for(lambda: len(server.calls_to("/claim")) > 2)
        server.stand_ins.clear()
        server.wait_for(lambda: all(one.status == "completed" for one in requests))
        rig.shutdown.ask()
        thread.join(5)
    assert caplog.messages.count("Orthanc answers claims again.") == 1


def test_a_claim_that_a_shutdown_breaks_off_is_not_taken_for_an_answer(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.misbehave("/claim", Fault.DROP_BEFORE)
    with caplog.at_level("INFO"):
        thread = rig.start()
        server.wait_for(lambda: len(server.calls_to("/claim")) == 2)
        rig.shutdown.ask()
        thread.join(5)
    assert "No answer to a claim" in caplog.text
    assert "answers claims again" not in caplog.text


def test_a_pause_of_an_hour_that_a_page_asks_for_keeps_no_worker_from_claiming(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.stand_ins["/claim"] = Page(503, headers={"Retry-After": "3600"})
    thread = rig.start()
    server.wait_for(lambda: "next try in 60 s" in caplog.text)
    rig.shutdown.ask()
    thread.join(5)
    assert not thread.is_alive()


def test_a_password_that_orthanc_refuses_in_mid_read_gives_the_request_back_and_ends_a_run_for_it(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(_: Claim) -> Any:
        raise SourceUnauthorizedError("Orthanc does not accept the user or the password.")

    rig.open_slide = refused
    request = server.add_request()
    with pytest.raises(UnauthorizedError, match="does not accept the user or the password"):
        rig.daemon().run(Mode.ONCE)
    assert request.status == "pending"
    assert server.calls_to("/complete-request/") == []
    assert list(rig.spool.waiting()) == []
    assert "goes back uncounted: Orthanc does not accept the user or the password." in caplog.text


class SlidesByTurns:
    """Opens one slide after another, and is refused where its turn says so."""

    def __init__(self, *refused: bool) -> None:
        self._turns = list(refused)

    def __call__(self, _: Claim) -> NoSlide:
        if self._turns.pop(0):
            raise SourceUnauthorizedError("Orthanc does not accept the user or the password.")
        return NoSlide()


def test_a_hand_back_that_is_answered_late_does_not_end_the_worker(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PluginClient.hand_back

    def late(*arguments: Any, **named: Any) -> None:
        threading.Event().wait(0.8)
        real(*arguments, **named)

    monkeypatch.setattr(PluginClient, "hand_back", late)
    monkeypatch.setattr("worker.serving.work._GRACE_S", 0.1)
    rig.open_slide = SlidesByTurns(True, False)
    request = server.add_request()
    thread = rig.start()
    server.wait_for(lambda: request.status == "completed")
    rig.shutdown.ask()
    thread.join(5)
    assert not thread.is_alive()


def test_slides_that_are_refused_in_a_row_are_claimed_ever_later_until_one_is_read(
    rig: Rig, server: ScriptedServer
) -> None:
    longest: list[float] = []

    def at_once(_: float, high: float) -> float:
        longest.append(high)
        return 0.0

    rig.backoff = Backoff(base_s=1.0, cap_s=3.0, uniform=at_once)
    rig.open_slide = SlidesByTurns(True, True, True, False, True, False)
    requests = [server.add_request(letter * 32) for letter in "ab"]
    rig.daemon().run(Mode.UNTIL_EMPTY)
    assert {request.status for request in requests} == {"completed"}
    assert longest == [1.0, 2.0, 3.0, 1.0]


def test_a_run_that_is_to_end_by_itself_gives_up_where_it_may_read_no_slide(
    rig: Rig, server: ScriptedServer
) -> None:
    rig.open_slide = SlidesByTurns(*[True] * 6)
    request = server.add_request()
    with pytest.raises(UnauthorizedError, match="does not accept the user or the password"):
        rig.daemon().run(Mode.UNTIL_EMPTY)
    assert (request.status, request.fence) == ("pending", 5)


@pytest.mark.parametrize("mode", [Mode.ONCE, Mode.UNTIL_EMPTY])
def test_a_run_that_is_to_end_by_itself_gives_up_where_no_server_answers(rig: Rig, mode: Mode) -> None:
    rig.environment["ORTHANC_URL"] = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UnreachableError, match="check that Orthanc runs"):
        rig.daemon().run(mode)
