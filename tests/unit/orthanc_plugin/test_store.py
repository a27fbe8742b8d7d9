# SPDX-License-Identifier: AGPL-3.0-or-later
"""The state of a series in its metadata: one write a transition, and what happens when a write goes wrong."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from orthanc_plugin.errors import ApiError
from orthanc_plugin.gateway import InstanceInfo
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.service.changes import series_created
from orthanc_plugin.storage.archive import MAX_BYTES
from orthanc_plugin.storage.codec import DamagedError, decode_state, encode_state
from orthanc_plugin.storage.numbering import take_number
from tests.support.queue_client import PNG, Queue, named, new_token
from tests.support.sites import PERSON, Answer, MemorySite, Slide
from tests.unit.orthanc_plugin.test_lifecycle import a_request, working


@pytest.fixture
def site() -> MemorySite:
    return MemorySite()


@pytest.fixture
def queue(site: MemorySite) -> Queue:
    return Queue(site)


def stored(site: MemorySite, slide: Slide) -> bytes:
    content = site.gateway.get_metadata(slide.series, 5000)
    assert content is not None
    return content


def state_writes(site: MemorySite) -> int:
    return sum(write[0] == "put_metadata" and write[2] == 5000 for write in site.gateway.writes)


def test_a_state_survives_its_encoding() -> None:
    state = SeriesState("s", 5101, 7, (working(), a_request(request_id="q", parameters='{"é":1}')), 3)
    assert decode_state("s", encode_state(state)) == state


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"schema": 1}',
        b'{"schema":1,"revision":1,"next_number":1,"folded":0,"requests":{}}',
        b'{"schema":1,"revision":1,"next_number":1,"folded":0,"requests":[{}]}',
        b'{"schema":1,"revision":1,"next_number":1,"folded":0,"requests":[1]}',
    ],
)
def test_a_damaged_value_is_recognised(content: bytes) -> None:
    with pytest.raises(DamagedError):
        decode_state("s", content)


def test_members_of_a_newer_schema_are_passed_over_on_reading() -> None:
    value = json.loads(encode_state(SeriesState("s", 5101, 7, (a_request(),))))
    value["requests"][0]["colour"] = "blue"
    assert decode_state("s", json.dumps(value).encode()).requests == (a_request(),)


def test_every_transition_is_one_write_and_a_heartbeat_none(site: MemorySite, queue: Queue) -> None:
    def writes_of(action: object) -> int:
        before = state_writes(site)
        assert callable(action)
        action()
        return state_writes(site) - before

    slide = site.new_slide()
    assert writes_of(lambda: queue.submit(slide)) == 1
    leases = []
    assert writes_of(lambda: leases.append(queue.claim())) == 1
    lease = leases[0]
    assert writes_of(lease.heartbeat) == 0
    assert writes_of(lambda: lease.heartbeat(progress=0.5)) == 0
    assert writes_of(lambda: lease.put("heatmap.png", PNG)) == 1
    # With a DICOM result to store in between it is two: publishing, completed.
    assert writes_of(lambda: lease.complete(named("heatmap.png", PNG))) == 1


def test_an_artifacts_number_is_reserved_before_its_bytes_are_written(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    lease = queue.claim()
    site.gateway.fail_next("put_attachment")
    assert lease.put("heatmap.png", PNG).status == 503
    names = [item["name"] for item in json.loads(stored(site, slide))["requests"][0]["artifacts"]]
    assert names == ["heatmap.png"]
    assert lease.complete(named("heatmap.png", PNG)).json["code"] == "artifact_mismatch"
    assert lease.put("heatmap.png", PNG).status == 200


def test_the_index_changes_only_when_the_write_took_place(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    site.gateway.fail_next("put_metadata")
    answer = queue.decide(request_id, "cancel")
    assert (answer.status, answer.json["code"]) == (503, "storage_unavailable")
    assert "retry-after" in answer.headers
    assert queue.status(request_id) == "pending"


def test_a_write_in_doubt_is_read_again_before_the_next(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted()
    site.gateway.fail_next("put_metadata", after=True)
    site.gateway.fail_next("get_metadata")
    assert queue.decide(request_id, "cancel").status == 503
    assert queue.decide(request_id, "cancel").status == 200
    assert queue.status(request_id) == "cancelled"


TELLING = {"Webhook": {"Url": "http://127.0.0.1:9/hook", "Secret": "whsec_" + "A" * 43 + "="}}


def told_of(site: MemorySite, request_id: str, what: str) -> tuple[list[str], int, int]:
    """Return the users whom the audit names for an event of a request, and how often it was counted."""
    core = site.application.core
    users = [
        user
        for (event, about), user in zip(site.audit.events, site.audit.users, strict=True)
        if (event.event, about) == (what, request_id)
    ]
    assert core.webhook is not None
    return users, core.tallies.transitions().get(what, 0), core.webhook.waiting


def test_a_write_that_took_place_after_all_counts_and_is_told_once() -> None:
    site = MemorySite(TELLING)
    queue = Queue(site)
    request_id = queue.submitted()
    site.gateway.fail_next("put_metadata", after=True)
    assert queue.decide(request_id, "cancel").status == 200
    site.pass_time(10)
    assert queue.status(request_id) == "cancelled"
    assert told_of(site, request_id, "cancelled") == ([PERSON], 1, 1)


def test_a_change_is_told_once_where_its_write_is_found_to_have_taken_place() -> None:
    site = MemorySite(TELLING)
    queue = Queue(site)
    request_id = queue.submitted()
    site.leave_in_doubt()
    assert queue.decide(request_id, "cancel").status == 503
    assert told_of(site, request_id, "cancelled") == ([], 0, 0)
    site.pass_time(10)  # nobody asks: it is read again all the same
    assert told_of(site, request_id, "cancelled") == ([PERSON], 1, 1)
    assert queue.decide(request_id, "cancel").status == 200
    site.pass_time(10)
    assert told_of(site, request_id, "cancelled") == ([PERSON], 1, 1)


def test_a_change_is_not_told_where_its_write_is_found_not_to_have_taken_place() -> None:
    site = MemorySite(TELLING)
    queue = Queue(site)
    request_id = queue.submitted()
    site.gateway.fail_next("put_metadata")
    site.gateway.fail_next("get_metadata")
    assert queue.decide(request_id, "cancel").status == 503
    site.pass_time(10)
    assert told_of(site, request_id, "cancelled") == ([], 0, 0)
    assert queue.status(request_id) == "pending"


def test_a_claim_whose_write_was_in_doubt_finds_its_lease_and_no_second_request(
    site: MemorySite, queue: Queue
) -> None:
    first, second = queue.submitted(), queue.submitted()
    site.leave_in_doubt()
    lease = queue.claim()
    assert (lease.request_id, lease.fence, queue.status(second)) == (first, 1, "pending")
    lease.hand_back()
    assert "storage_unavailable" not in [note["code"] for note in queue.get(first)["notes"]]


def test_a_claim_repeated_while_its_write_is_in_doubt_gets_no_second_request(
    site: MemorySite, queue: Queue
) -> None:
    first, second = queue.submitted(), queue.submitted()
    site.leave_in_doubt()
    for _ in range(2):
        site.gateway.fail_next("get_metadata")
    token = new_token()
    assert [queue.try_claim(token=token).status for _ in range(2)] == [503, 503]
    assert queue.claim(token=token).request_id == first
    assert queue.claim("other").request_id == second


def test_a_claim_is_repeated_while_the_write_of_another_request_of_its_slide_is_in_doubt(
    site: MemorySite, queue: Queue
) -> None:
    queue.submitted(slide := site.new_slide())
    lease = queue.claim()
    other = queue.submitted(slide, parameters={"a": 1})
    site.leave_in_doubt()
    assert queue.decide(other, "cancel").status == 503
    site.gateway.fail_next("get_metadata")
    assert queue.claim(token=lease.token).request_id == lease.request_id


def test_a_worker_is_given_no_second_slide_ahead_while_a_write_that_gave_it_one_is_in_doubt(
    site: MemorySite, queue: Queue
) -> None:
    first, second = queue.submitted(), queue.submitted()
    site.leave_in_doubt()
    site.gateway.fail_next("get_metadata")
    answers = [queue.try_claim(prefetch=True).status for _ in range(3)]
    assert answers == [503, 204, 204]
    assert (queue.status(first), queue.status(second)) == ("processing", "pending")
    assert queue.claim("other", prefetch=True).request_id == second


def test_a_damaged_value_is_kept_reported_and_begun_afresh(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    site.gateway.put_metadata(slide.series, 5000, b"damaged")
    site.gateway.put_attachment(slide.series, 5105, b"somebody's result")
    site.restart()
    assert site.warnings
    assert all("5000" in warning and "is damaged" in warning for warning in site.warnings)
    assert site.gateway.get_metadata(slide.series, 5002) == b"damaged"
    assert queue.submit(slide).status == 201
    assert json.loads(stored(site, slide))["next_number"] == 5106
    site.restart()
    assert site.gateway.get_attachment(slide.series, 5105) == b"somebody's result"


def test_a_damaged_value_that_cannot_be_kept_is_not_overwritten(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    site.gateway.put_metadata(slide.series, 5000, b"damaged")
    site.gateway.fail_next("put_metadata")
    assert queue.submit(slide).status == 503
    assert stored(site, slide) == b"damaged"


def test_a_damaged_value_is_not_overwritten_where_its_copy_is_not_the_same(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, put = site.new_slide(), site.gateway.put_metadata
    put(slide.series, 5000, b"damaged")
    monkeypatch.setattr(
        site.gateway, "put_metadata", lambda series, number, value: put(series, number, value[:3])
    )
    assert queue.submit(slide).status == 503
    assert stored(site, slide) == b"damaged"


def test_a_second_damaged_value_is_kept_beside_the_first(site: MemorySite) -> None:
    slide = site.new_slide()
    for content in (b"one", b"two"):
        site.gateway.put_metadata(slide.series, 5000, content)
        site.restart()
    assert site.gateway.get_metadata(slide.series, 5002) == b"one\ntwo"


def test_a_newer_schema_is_read_and_never_rewritten(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    value = {**json.loads(stored(site, slide)), "schema": 2, "next_number": 5110}
    site.gateway.put_metadata(slide.series, 5000, json.dumps(value).encode())
    site.gateway.put_attachment(slide.series, 5109, b"named by what only the newer one knows")
    site.restart()
    assert site.gateway.list_attachments(slide.series) == (5109,)
    assert queue.status(request_id) == "pending"
    answer = queue.decide(request_id, "cancel")
    assert (answer.status, "newer" in answer.json["error"]) == (503, True)
    assert json.loads(stored(site, slide)) == value


def with_members(site: MemorySite, slide: Slide, **members: Any) -> None:
    """Write members into the stored request of a slide, and start again."""
    value = json.loads(stored(site, slide))
    value["requests"][0].update(members)
    site.gateway.put_metadata(slide.series, 5000, json.dumps(value).encode())
    site.restart(kill=True)


GRANT = {
    "fence": 1,
    "worker_id": "w",
    "user": "worker",
    "token_sha256": "t",
    "model": {"name": "m"},
    "fingerprint": "f",
    "granted": 1.0,
}


@pytest.mark.parametrize(
    "members",
    [
        {"parameters": "{:"},
        {"parameters": ""},
        {"parameters": '{"a":NaN}'},
        {"parameters": '{"a":1e999}'},
        {"summary": "[]"},
        {"created": 999e9},
        {"created": float("nan")},
        {"updated": -1},
        {"not_before": "soon"},
        {"created_by": "\ud800"},
        {"priority": float("nan")},
        {"priority": 1.5},
        {"max_attempts": None},
        {"status": "paused"},
        {"status": "processing"},
        {"study": None},
        {"model": {}},
        {"model_version": [1]},
        {"flags": 5},
        {"flags": [[]]},
        {"cancel_requested": "no"},
        {"error": "none"},
        {"review": {"verdict": "agree", "comment": "", "by": "alice", "at": 1e300}},
        {"outputs": [{"modality": "SR", "series_instance_uid": [], "sop_instance_uid": "1"}]},
        {"artifacts": [{"name": "a", "number": "5101", "size": 1, "sha256": "", "content_type": ""}]},
        {"record": {"name": "record"}},
        {"grants": {}},
        {"grants": [{**GRANT, "model": None}]},
        {"grants": [{**GRANT, "token_sha256": 1}]},
        {"history": []},
        {"history": [{"at": None, "event": "submitted", "by": ""}]},
    ],
    ids=str,
)
def test_an_odd_value_takes_no_other_series_along(
    site: MemorySite, queue: Queue, members: dict[str, Any]
) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    other = queue.submitted()
    with_members(site, slide, **members)

    listed = site.call("GET", "/pathology/requests", query={"full": "1"})
    assert [request["request_id"] for request in listed.json["requests"]] == [other]
    assert site.gateway.get_metadata(slide.series, 5002) is not None
    assert queue.claim().request_id == other


def test_a_newer_schema_that_is_not_understood_is_left_alone(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    other = queue.submitted()
    value = {**json.loads(stored(site, slide)), "schema": 2}
    value["requests"][0]["status"] = "paused"
    newer = json.dumps(value).encode()
    site.gateway.put_metadata(slide.series, 5000, newer)
    site.restart(kill=True)
    answer = queue.submit(slide, force=True)
    assert (answer.status, "newer" in answer.json["error"]) == (503, True)
    assert site.call("GET", f"/pathology/requests/{request_id}").status == 503
    assert (stored(site, slide), site.gateway.list_metadata(slide.series)) == (newer, (5000,))
    assert queue.claim().request_id == other


def test_what_cannot_be_read_is_reported_once(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    site.gateway.put_metadata(slide.series, 5000, b'{"schema": 2}')
    site.restart(kill=True)
    for _ in range(3):
        site.pass_time(10)
    assert [slide.series in warning for warning in site.warnings] == [True]


def test_open_requests_do_not_outgrow_the_state(site: MemorySite, queue: Queue) -> None:
    slide, most = site.new_slide(), {"n": "x" * 3900}
    answers = [queue.submit(slide, parameters={**most, "number": number}) for number in range(18)]
    statuses = [answer.status for answer in answers]
    accepted = statuses.count(201)
    assert statuses == [201] * accepted + [413] * (18 - accepted)
    assert (accepted > 10, answers[-1].json["code"]) == (True, "too_many_requests_on_series")
    assert len(stored(site, slide)) <= MAX_BYTES

    # What has been accepted is worked on all the same.
    assert [queue.try_claim(f"w{number}").status for number in range(accepted)] == [200] * accepted
    assert len(stored(site, slide)) > MAX_BYTES


def test_two_changes_of_a_series_at_once_are_both_kept(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, put = site.new_slide(), site.gateway.put_metadata
    ids = [queue.submitted(slide, parameters={"number": number}) for number in range(2)]
    others: list[Future[Answer]] = []
    with ThreadPoolExecutor(1) as threads:

        def put_while_another_changes(series: str, number: int, value: bytes) -> None:
            if not others:
                others.append(threads.submit(queue.decide, ids[1], "cancel"))
                wait(others, timeout=0.2)  # it waits for us
            put(series, number, value)

        monkeypatch.setattr(site.gateway, "put_metadata", put_while_another_changes)
        assert queue.decide(ids[0], "cancel").status == 200
        assert others[0].result(10).status == 200
    requests = decode_state(slide.series, stored(site, slide)).requests
    assert [request.status for request in requests] == ["cancelled", "cancelled"]


def test_a_series_that_orthanc_is_slow_at_holds_up_no_other(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = site.new_slide(), queue.submitted()
    held, put = queue.submitted(slow), site.gateway.put_metadata
    is_writing, go_on = threading.Event(), threading.Event()

    def slow_put(series: str, number: int, value: bytes) -> None:
        if series == slow.series:
            is_writing.set()
            assert go_on.wait(10)
        put(series, number, value)

    monkeypatch.setattr(site.gateway, "put_metadata", slow_put)
    with ThreadPoolExecutor(2) as threads:
        writing = threads.submit(queue.decide, held, "cancel")
        assert is_writing.wait(10)
        meanwhile = threads.submit(queue.decide, other, "cancel")
        try:
            assert meanwhile.result(5).status == 200
        finally:
            go_on.set()
        assert writing.result(5).status == 200


def test_numbers_run_out_with_a_sentence() -> None:
    with pytest.raises(ApiError) as caught:
        take_number(SeriesState("s", 65536))
    assert caught.value.status == 413


def test_left_over_attachments_go_with_the_next_claim(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    queue.claim().put("heatmap.png", PNG)
    assert len(site.gateway.list_attachments(slide.series)) == 1
    site.pass_time(1.1)
    queue.claim("other")
    assert site.gateway.list_attachments(slide.series) == ()


def test_a_file_that_is_not_as_it_was_sent_is_no_part_of_a_result_and_may_be_sent_again(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    lease = queue.claim()
    lease.put("heatmap.png", PNG)
    (number,) = site.gateway.list_attachments(slide.series)
    site.gateway.put_attachment(slide.series, number, PNG[::-1])
    assert lease.complete(named("heatmap.png", PNG)).json["code"] == "artifact_mismatch"
    assert lease.put("heatmap.png", PNG).status == 200
    assert lease.complete(named("heatmap.png", PNG)).status == 200


def test_a_file_that_orthanc_cannot_read_now_is_asked_for_again(site: MemorySite, queue: Queue) -> None:
    path = f"/pathology/requests/{queue.completed().request_id}/artifacts/heatmap.png"
    site.gateway.fail_next("get_attachment")
    assert [site.call("GET", path).status for _ in range(2)] == [503, 200]


def test_a_file_in_whose_place_another_is_sent_is_deleted(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    lease = queue.claim()
    for content in (PNG, PNG + b"another"):
        assert lease.put("heatmap.png", content).status == 200
    (number,) = site.gateway.list_attachments(slide.series)
    assert site.gateway.get_attachment(slide.series, number) == PNG + b"another"


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
def test_what_a_request_had_sent_that_ends_without_a_result_goes_with_the_next_start(
    site: MemorySite, queue: Queue, end: str
) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    lease = queue.claim()
    lease.put("heatmap.png", PNG)
    if end == "fails":
        lease.fail("no_tissue", retryable=False)
    else:
        queue.decide(request_id, "cancel")
        lease.heartbeat(status="cancelled")
    assert queue.status(request_id) in {"failed", "cancelled"}
    assert site.gateway.list_attachments(slide.series) != ()
    site.restart()
    assert site.gateway.list_attachments(slide.series) == ()


def test_the_list_of_open_series_is_written_before_the_request(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    site.gateway.fail_next("put_metadata")
    assert queue.submit(slide).status == 503
    listed = site.gateway.get_global_property(5000)
    assert listed is not None
    assert json.loads(listed) == [slide.series]


def test_a_cohort_is_listed_with_one_write(site: MemorySite, queue: Queue) -> None:
    slides = [site.new_slide().series for _ in range(3)]
    body = {"cohort": {"series": [*slides, "gone"]}, "model": queue.model}
    assert site.call("POST", "/pathology/analyze", body=body).status == 201
    assert site.gateway.writes.count(("set_global_property", "", 5000)) == 1
    assert json.loads(site.gateway.get_global_property(5000) or "") == slides


def test_requests_of_a_cohort_are_created_when_they_are_written_and_not_when_they_are_checked(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides, check = [site.new_slide().series for _ in range(3)], site.gateway.instances
    checked_at: list[float] = []

    def slow_check(series_id: str) -> tuple[InstanceInfo, ...]:
        site.clock.advance(10)
        checked_at.append(site.clock.now())
        return check(series_id)

    monkeypatch.setattr(site.gateway, "instances", slow_check)
    body = {"cohort": {"series": slides}, "model": queue.model}
    assert site.call("POST", "/pathology/analyze", body=body).status == 201
    number = site.settings.metadata_number
    states = [decode_state(series, site.gateway.get_metadata(series, number) or b"") for series in slides]
    requests = [request for state in states for request in state.requests]
    assert [request.created for request in requests] == [checked_at[-1]] * 3
    assert {request.history[0].at for request in requests} == {checked_at[-1]}


def test_nothing_of_a_cohort_is_written_where_its_slides_cannot_be_listed(
    site: MemorySite, queue: Queue
) -> None:
    slides = [site.new_slide().series for _ in range(3)]
    site.gateway.fail_next("set_global_property")
    answer = site.call("POST", "/pathology/analyze", body={"cohort": {"series": slides}, "model": "m"})
    assert answer.status == 503
    assert site.gateway.writes == []


def test_the_list_of_open_series_is_shortened_after_a_while(site: MemorySite, queue: Queue) -> None:
    kept, ended = site.new_slide(), site.new_slide()
    queue.submitted(kept)
    queue.decide(queue.submitted(ended), "cancel")
    site.pass_time(61)
    listed = site.gateway.get_global_property(5000)
    assert listed is not None
    assert json.loads(listed) == [kept.series]


def listed_series(site: MemorySite) -> list[str]:
    found = json.loads(site.gateway.get_global_property(5000) or "[]")
    assert isinstance(found, list)
    return found


def test_a_series_stays_listed_between_its_listing_and_its_first_request(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, put = site.new_slide(), site.gateway.put_metadata

    def put_after_a_look_at_the_list(series: str, number: int, value: bytes) -> None:
        site.pass_time(30)
        put(series, number, value)

    monkeypatch.setattr(site.gateway, "put_metadata", put_after_a_look_at_the_list)
    queue.submitted(slide)
    assert listed_series(site) == [slide.series]


def test_a_series_stays_listed_while_the_write_of_its_first_request_is_in_doubt(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    queue.decide(queue.submitted(slide, parameters={"an": "earlier one"}), "cancel")
    site.leave_in_doubt()
    assert queue.submit(slide).status == 503
    site.gateway.fail_next("get_metadata")
    site.pass_time(61)
    assert listed_series(site) == [slide.series]


def test_a_series_is_listed_again_before_a_person_retries(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    queue.decide(request_id := queue.submitted(slide), "cancel")
    site.pass_time(61)
    assert listed_series(site) == []
    site.gateway.fail_next("put_metadata")
    assert queue.decide(request_id, "retry").status == 503
    assert listed_series(site) == [slide.series]


def test_a_slide_stored_again_is_listed_before_its_requests_are_written(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    site.pass_time(61)
    site.delete(slide)
    site.pass_time(1)
    assert listed_series(site) == []
    site.gateway.add_slide(slide.series_uid, slide.study_uid)
    site.gateway.fail_next("put_metadata")
    with pytest.raises(ApiError):
        series_created(site.application.core, slide.series)
    assert listed_series(site) == [slide.series]


def test_what_cannot_be_read_at_start_is_a_503_and_not_a_404(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted()
    for _ in range(2):
        site.gateway.fail_next("get_metadata")
    site.restart()
    answer = site.call("GET", f"/pathology/requests/{request_id}/")
    assert (answer.status, answer.json["code"]) == (503, "starting")
    site.pass_time(0)
    assert queue.status(request_id) == "pending"
    assert site.call("GET", "/pathology/requests/unknown").status == 404
