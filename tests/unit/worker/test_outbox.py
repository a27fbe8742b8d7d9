# SPDX-License-Identifier: Apache-2.0
"""The outbox: the plugin's own word alone ends a delivery, and no delivery keeps the others or the worker."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_server import FOREIGN_PAGES, Page, ScriptedServer
from tests.unit.worker.conftest import Rig
from worker.api.client import PluginClient
from worker.api.contract import ArtifactRef
from worker.backoff import Backoff
from worker.errors import JobStoppedError, StopReason
from worker.jobs.delivery import Delivery, result_delivery
from worker.serving.daemon import Mode
from worker.serving.outbox import Fate, Outbox

ANYWHERE = "/pathology/"


def claimed(rig: Rig, server: ScriptedServer, request_id: str = "a" * 32) -> Delivery:
    """Return the result of a request that was claimed."""
    server.add_request(request_id)
    client = rig.client()
    claim = client.claim(request_id, rig.analyzer.offers, None, device="cpu", wait_s=0).claim
    client.close()
    assert claim is not None
    return result_delivery(claim, "lab-1", {"predicted_class": "x", "timings_s": {}}, {"heatmap.png": b"PNG"})


def waiting(rig: Rig) -> list[str]:
    return [delivery.request_id[0] for delivery in rig.spool.waiting()]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("page", FOREIGN_PAGES.values(), ids=FOREIGN_PAGES.keys())
@pytest.mark.parametrize("route", ["/artifacts/", "/complete-request/"])
def test_a_result_waits_while_something_else_answers_in_the_plugins_place(
    rig: Rig, server: ScriptedServer, route: str, page: Page
) -> None:
    outbox = Outbox(rig.client(), rig.spool)
    delivery = claimed(rig, server)
    server.stand_ins[route] = page
    assert outbox.deliver(delivery) is Fate.WAITS
    assert not outbox.replay()
    server.stand_ins.clear()
    assert outbox.replay()
    assert server.requests[delivery.request_id].status == "completed"
    assert waiting(rig) == []


def test_results_that_waited_through_a_cut_survive_a_sign_in_page_on_the_way_back(
    rig: Rig, server: ScriptedServer
) -> None:
    outbox = Outbox(rig.client(), rig.spool)
    server.accepts_results = False
    for letter in "abc":
        outbox.deliver(claimed(rig, server, letter * 32))
    server.accepts_results = True
    server.stand_ins[ANYWHERE] = Page(200)
    outbox.replay()
    assert waiting(rig) == ["a", "b", "c"]
    server.stand_ins.clear()
    outbox.replay()
    assert {request.status for request in server.requests.values()} == {"completed"}


def test_a_result_that_has_grown_too_old_is_not_sent_any_more(rig: Rig, server: ScriptedServer) -> None:
    rig.environment["SPOOL_MAX_HOURS"] = "1"
    outbox = Outbox(rig.client(), rig.spool)
    server.accepts_results = False
    delivery = claimed(rig, server)
    assert outbox.deliver(delivery) is Fate.WAITS
    two_hours_ago = time.time() - 7200
    os.utime(rig.settings.spool_dir / "lab-1" / delivery.name, (two_hours_ago, two_hours_ago))
    server.accepts_results = True
    assert outbox.replay()
    assert server.requests[delivery.request_id].status == "processing"
    assert waiting(rig) == []


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let the spool have no room, until this is undone."""

    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("worker.serving.spool._write_durably", write)
    return monkeypatch


def outbox_that_pauses(rig: Rig, pause: Callable[[float], bool]) -> Outbox:
    longest = Backoff(base_s=10, cap_s=40, uniform=lambda _low, high: high)
    return Outbox(rig.client(), rig.spool, lambda: 0.0, longest, pause)


@pytest.mark.parametrize("page", [*FOREIGN_PAGES.values(), None], ids=[*FOREIGN_PAGES, "nothing"])
@pytest.mark.usefixtures("full_disk")
def test_a_result_that_finds_no_room_on_disk_is_sent_from_memory_until_it_arrives(
    rig: Rig, server: ScriptedServer, page: Page | None
) -> None:
    delivery, pauses = claimed(rig, server), []
    server.stand_ins.update({} if page is None else {ANYWHERE: page})
    server.accepts_results = page is not None

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 3:
            server.stand_ins.clear()
            server.accepts_results = True
        return False

    assert outbox_that_pauses(rig, pause).deliver(delivery) is Fate.ARRIVED
    assert pauses == [10, 20, 40]
    assert server.requests[delivery.request_id].status == "completed"


def test_a_disk_that_fills_up_while_a_result_is_sent_costs_nothing(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_sent: int) -> None:
        monkeypatch.setattr("worker.serving.spool._write_durably", full)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    delivery = claimed(rig, server)
    assert Outbox(rig.client(), rig.spool).deliver(delivery, fill) is Fate.ARRIVED
    assert server.requests[delivery.request_id].status == "completed"
    assert waiting(rig) == []


def test_it_waits_on_disk_as_soon_as_there_is_room(
    rig: Rig, server: ScriptedServer, full_disk: pytest.MonkeyPatch
) -> None:
    delivery = claimed(rig, server)
    server.accepts_results = False

    def make_room(_: float) -> bool:
        full_disk.undo()
        return False

    assert outbox_that_pauses(rig, make_room).deliver(delivery) is Fate.WAITS
    assert waiting(rig) == ["a"]


def with_objects(delivery: Delivery) -> Delivery:
    """Return a result with a DICOM object, which may not lie on this machine's disk."""
    name, content = "slide-report.dcm", b"DICM"
    body = {
        **delivery.body,
        "artifacts": [*delivery.body["artifacts"], ArtifactRef.of(name, content).as_json()],
        "result": {
            **delivery.body["result"],
            "artifacts": ["heatmap.png", name],
            "dicom": [{"modality": "SR"}],
        },
    }
    artifacts = {**delivery.artifacts, name: content}
    return dataclasses.replace(delivery, body=body, artifacts=artifacts)


def test_dicom_objects_that_the_disk_does_not_keep_wait_a_minute_for_the_server(
    rig: Rig, server: ScriptedServer
) -> None:
    delivery = with_objects(claimed(rig, server))
    server.accepts_results = False

    def start_again(_: float) -> bool:
        server.accepts_results = True
        return False

    assert outbox_that_pauses(rig, start_again).deliver(delivery) is Fate.ARRIVED
    assert set(server.requests[delivery.request_id].artifacts) == {"heatmap.png", "slide-report.dcm"}
    assert waiting(rig) == []


def test_after_that_minute_their_result_waits_on_disk_without_them(rig: Rig, server: ScriptedServer) -> None:
    now = 0.0

    def pause(seconds: float) -> bool:
        nonlocal now
        now += seconds
        return False

    delivery = with_objects(claimed(rig, server))
    server.stand_ins["/artifacts/"] = Page(403)
    longest = Backoff(base_s=10, cap_s=10, uniform=lambda _low, high: high)
    assert Outbox(rig.client(), rig.spool, lambda: now, longest, pause).deliver(delivery) is Fate.WAITS
    assert now == 50
    server.stand_ins.clear()
    assert Outbox(rig.client(), rig.spool).replay()
    result = server.requests[delivery.request_id].document["result"]
    assert result["quality"]["flags"] == ["dicom_results_not_kept"]


@pytest.mark.usefixtures("full_disk")
def test_it_is_given_up_after_ten_minutes(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0

    def pause(seconds: float) -> bool:
        nonlocal now
        now += seconds
        return False

    delivery = claimed(rig, server)
    server.stand_ins["/artifacts/"] = Page(403)
    longest = Backoff(base_s=40, cap_s=40, uniform=lambda _low, high: high)
    assert Outbox(rig.client(), rig.spool, lambda: now, longest, pause).deliver(delivery) is Fate.UNKEPT
    assert now == 560
    assert "which was not kept, is lost" in warnings(caplog)[-1]


@pytest.mark.usefixtures("full_disk")
def test_so_it_is_where_the_worker_is_to_end(rig: Rig, server: ScriptedServer) -> None:
    delivery = claimed(rig, server)
    server.stand_ins["/artifacts/"] = Page(403)
    assert outbox_that_pauses(rig, lambda _: True).deliver(delivery) is Fate.UNKEPT
    assert len(server.calls_to("/artifacts/")) == 1


def test_nothing_is_kept_of_a_result_whose_work_is_stopped_while_it_is_sent(
    rig: Rig, server: ScriptedServer
) -> None:
    def stop(_: int) -> None:
        raise JobStoppedError(StopReason.CANCELLED)

    with pytest.raises(JobStoppedError):
        Outbox(rig.client(), rig.spool).deliver(claimed(rig, server), stop)
    assert waiting(rig) == []


def test_the_log_names_what_answered_once_and_not_at_every_try(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(rig.client(), rig.spool)
    delivery = claimed(rig, server)
    server.stand_ins[ANYWHERE] = Page(403, headers={"Content-Type": "text/html; charset=utf-8"})
    outbox.deliver(delivery)
    for _ in range(3):
        outbox.replay()
    (line,) = warnings(caplog)
    assert "waits on disk and is sent again: Something else than the plugin answered" in line
    assert "(403, text/html, BaseHTTP/" in line
    server.stand_ins[ANYWHERE] = FOREIGN_PAGES["a redirect"]
    outbox.replay()
    assert len(warnings(caplog)) == 2
    assert "redirects to https://login.test (302): set the final address" in warnings(caplog)[-1]
    assert "secret" not in caplog.text


def test_a_delivery_that_is_being_sent_is_not_sent_again_meanwhile(rig: Rig, server: ScriptedServer) -> None:
    outbox, replays = Outbox(rig.client(), rig.spool), list[bool]()

    def replay(_: int) -> None:
        replays.append(outbox.begin_replay().result(5))

    assert outbox.deliver(claimed(rig, server), replay) is Fate.ARRIVED
    assert replays == [False]
    assert len(server.calls_to("/artifacts/")) == 1


def test_a_replay_does_not_wait_out_what_a_refusal_asks_for_since_an_idle_workers_claim_waits_for_it(
    rig: Rig, server: ScriptedServer
) -> None:
    for letter in "abc":
        rig.spool.store(claimed(rig, server, letter * 32))
    busy = {"success": False, "code": "storage_unavailable", "error": "Orthanc could not read it."}
    server.stand_ins["/complete-request/"] = Page(503, json.dumps(busy).encode(), {"Retry-After": "5"})
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    assert not Outbox(PluginClient(rig.settings, rig.settings.worker, wait=wait), rig.spool).replay()
    assert len(server.calls_to("/complete-request/")) == 3
    assert pauses == []


def refusing(status: int, code: str) -> Page:
    """Return the plugin's own refusal."""
    return Page(status, json.dumps({"success": False, "code": code, "error": "Why."}).encode())


@pytest.mark.parametrize(
    ("status", "code"),
    [(409, "lease_lost"), (409, "series_changed"), (409, "wrong_state"), (410, "source_deleted")],
)
def test_what_the_server_has_gone_on_without_is_dropped_and_nothing_more_is_said_of_it(
    rig: Rig, server: ScriptedServer, status: int, code: str
) -> None:
    server.stand_ins["/complete-request/"] = refusing(status, code)
    assert Outbox(rig.client(), rig.spool).deliver(claimed(rig, server)) is Fate.UNWANTED
    assert len(server.calls_to("/complete-request/")) == 1
    assert waiting(rig) == []


def test_where_one_cannot_arrive_for_a_reason_that_is_everybodys_no_other_is_tried(
    rig: Rig, server: ScriptedServer
) -> None:
    outbox = Outbox(rig.client(), rig.spool)
    server.stand_ins["/artifacts/"] = refusing(403, "forbidden_role")
    for letter in "abc":
        outbox.deliver(claimed(rig, server, letter * 32))
    before = len(server.calls_to("/artifacts/"))
    assert not outbox.replay()
    assert len(server.calls_to("/artifacts/")) == before + 1
    assert waiting(rig) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "forbidden_role"),
        (403, "forbidden_origin"),
        (404, "unknown_route"),
        (409, "upgrade_worker"),
    ],
)
def test_a_user_or_a_plugin_that_was_changed_costs_no_result(
    rig: Rig, server: ScriptedServer, status: int, code: str
) -> None:
    outbox = Outbox(rig.client(), rig.spool)
    delivery = claimed(rig, server)
    server.stand_ins[ANYWHERE] = refusing(status, code)
    assert outbox.deliver(delivery) is Fate.WAITS
    server.stand_ins.clear()
    assert outbox.replay()
    assert server.requests[delivery.request_id].status == "completed"


@pytest.mark.parametrize(
    ("status", "code", "may_help"), [(413, "artifact_too_large", False), (409, "artifact_mismatch", True)]
)
def test_what_the_plugin_itself_refuses_ends_its_request_with_the_plugins_code_and_whether_again_may_help(
    rig: Rig, server: ScriptedServer, status: int, code: str, *, may_help: bool
) -> None:
    delivery = claimed(rig, server)
    server.stand_ins["/artifacts/"] = refusing(status, code)
    assert Outbox(rig.client(), rig.spool).deliver(delivery) is Fate.REFUSED
    request = server.requests[delivery.request_id]
    error = request.document["error"]
    assert (request.status, error["code"], error["retryable"]) == ("failed", code, may_help)
    assert waiting(rig) == []


@pytest.mark.parametrize(("status", "code"), [(503, "storage_unavailable"), (500, "internal")])
def test_a_result_whose_slide_the_server_cannot_read_waits_and_keeps_no_other_one_waiting(
    rig: Rig, server: ScriptedServer, status: int, code: str
) -> None:
    outbox = Outbox(rig.client(), rig.spool)
    server.accepts_results = False
    for letter in "ab":
        outbox.deliver(claimed(rig, server, letter * 32))
    server.accepts_results = True
    lost = {"success": False, "code": code, "error": "Orthanc could not read it."}
    server.stand_ins[f"/complete-request/{'a' * 32}/"] = Page(status, json.dumps(lost).encode())
    assert not outbox.replay()
    assert waiting(rig) == ["a"]
    assert server.requests["b" * 32].status == "completed"


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_server_that_takes_nothing_now_is_asked_with_one_waiting_result_and_not_with_each(
    rig: Rig, server: ScriptedServer, status: int
) -> None:
    outbox = Outbox(rig.client(), rig.spool)
    server.accepts_results = False
    for letter in "ab":
        outbox.deliver(claimed(rig, server, letter * 32))
    server.stand_ins[ANYWHERE] = Page(status)
    before = len(server.calls)
    assert not outbox.replay()
    asked = [call.path for call in server.calls[before:]]
    assert asked
    assert not any("b" * 32 in path for path in asked)


def test_a_result_too_large_for_a_proxy_keeps_no_other_one_waiting(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(rig.client(), rig.spool)
    server.accepts_results = False
    for letter in "ab":
        outbox.deliver(claimed(rig, server, letter * 32))
    server.accepts_results = True
    server.stand_ins[f"/requests/{'a' * 32}/"] = Page(413)
    assert not outbox.replay()
    assert waiting(rig) == ["a"]
    assert "client_max_body_size" in caplog.text


def test_beside_work_in_hand_what_waits_is_tried_after_ever_longer_rests(
    rig: Rig, server: ScriptedServer
) -> None:
    now = 0.0
    longest = Backoff(base_s=10, cap_s=40, uniform=lambda _low, high: high)
    outbox = Outbox(rig.client(), rig.spool, lambda: now, longest)
    server.stand_ins["/artifacts/"] = Page(403)
    outbox.deliver(claimed(rig, server))

    def tries() -> int:
        outbox.begin_replay(patiently=True).result(10)
        return len(server.calls_to("/artifacts/"))

    assert (tries(), tries()) == (2, 2)
    now += 10
    assert (tries(), tries()) == (3, 3)
    now += 10
    assert tries() == 3
    outbox.begin_replay().result(10)
    assert len(server.calls_to("/artifacts/")) == 4


def test_a_run_that_is_to_end_by_itself_leaves_what_does_not_arrive_to_the_next_one(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.add_request()
    server.stand_ins["/artifacts/"] = Page(403)
    assert rig.daemon().run(Mode.UNTIL_EMPTY).served == 1
    assert waiting(rig) == ["a"]
    assert "is sent by the next run" in caplog.text


def without_body(document: dict[str, Any]) -> None:
    document["body"] = None


def of_a_later_version(document: dict[str, Any]) -> None:
    document["schema"] = 99


def with_an_unknown_artifact(document: dict[str, Any]) -> None:
    document["body"]["artifacts"] = [{"name": "report.pdf", "size": 3, "sha256": "0"}]


@pytest.mark.parametrize("change", [without_body, of_a_later_version, with_an_unknown_artifact])
def test_a_result_that_this_worker_cannot_send_is_set_aside_and_all_else_goes_on(
    rig: Rig,
    server: ScriptedServer,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[dict[str, Any]], None],
) -> None:
    server.add_request("a" * 32)
    server.accepts_results = False
    rig.daemon().run(Mode.ONCE)
    server.accepts_results = True
    entry = entry_of(rig)
    (entry / "artifacts" / "report.pdf").write_bytes(b"PDF")
    document = json.loads((entry / "delivery.json").read_text())
    before = json.dumps(document)
    change(document)
    (entry / "delivery.json").write_text(json.dumps(document))
    server.add_request("b" * 32)
    rig.daemon().run(Mode.UNTIL_EMPTY)
    assert server.requests["b" * 32].status == "completed"
    assert f"({entry.name}) " in caplog.text
    assert caplog.text.count("it is set aside, kept as long as others") == 1
    # A worker of the right version finds it again.
    (entry / "delivery.json").write_text(before)
    rig.daemon().run(Mode.UNTIL_EMPTY)
    assert server.requests["a" * 32].status == "completed"
    assert not entry.exists()


def entry_of(rig: Rig) -> Path:
    (entry,) = [path for path in (rig.folder / "spool" / "lab-1").iterdir() if path.is_dir()]
    return entry


@pytest.mark.parametrize("answer", [b'{"artifact": "ok"}', b'{"success": true, "artifact": "ok"}'])
def test_an_answer_without_the_stored_artifact_ends_neither_worker_nor_delivery(
    rig: Rig, server: ScriptedServer, answer: bytes
) -> None:
    delivery = claimed(rig, server)
    server.stand_ins["/artifacts/"] = Page(200, answer)
    assert Outbox(rig.client(), rig.spool).deliver(delivery) is Fate.WAITS
    assert waiting(rig) == ["a"]
