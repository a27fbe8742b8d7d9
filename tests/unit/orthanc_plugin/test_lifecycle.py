# SPDX-License-Identifier: AGPL-3.0-or-later
"""The transitions of a request, as functions of values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orthanc_plugin.errors import ApiError
from orthanc_plugin.queue import delivery, leases, lifecycle, transition, values
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.values import AnalysisRequest, Artifact, Failure, Grant, Model, Output, Review
from orthanc_plugin.storage.codec import decode_state, encode_state

NOW = 1000.0
RETRY: dict[str, float] = {"retry_s": 30.0, "jitter": 0.0}
RECORD = Artifact("record", 5100, 0, "", "application/json")
HEATMAP = Artifact("heatmap.png", 5101, 1, "0" * 64, "image/png")
REPORT = Output("SR", "1.3", "1.3.1")


def a_request(**members: Any) -> AnalysisRequest:
    request = AnalysisRequest(
        request_id="r",
        series="s",
        study="t",
        series_instance_uid="1.2",
        study_instance_uid="1",
        model="m",
        model_version=None,
        parameters="{}",
        priority=0,
        fingerprint="f",
        created=NOW,
        created_by="alice",
        updated=NOW,
        max_attempts=3,
    )
    return lifecycle.submitted(replace(request, **members))


def claimed(
    request: AnalysisRequest | None = None, *, worker: str = "w", fingerprint: str = "f"
) -> AnalysisRequest:
    request = request or a_request()
    grant = Grant(
        fence=request.fence + 1,
        worker_id=worker,
        user="worker",
        token_sha256="t" * 64,
        model=Model("m", "1"),
        fingerprint=fingerprint,
        granted=NOW,
    )
    return leases.granted(request, grant, RECORD, NOW)


def working(request: AnalysisRequest | None = None) -> AnalysisRequest:
    return leases.heard(claimed(request), NOW)


def a_delivery(body: str = "b") -> delivery.Delivery:
    return delivery.Delivery(body, (), RECORD, (), "{}", ())


def code_of(caught: pytest.ExceptionInfo[ApiError]) -> str:
    return caught.value.code


def test_a_grant_raises_the_fence_and_binds_the_content() -> None:
    request = claimed(a_request(), fingerprint="new")
    assert (request.fence, request.attempts, request.fingerprint) == (1, 0, "new")
    assert "changed since" in request.history[-1].detail


def test_a_grant_has_nothing_of_what_the_one_before_has_sent() -> None:
    first = delivery.with_artifact(working(), HEATMAP, REPORT)
    second = claimed(leases.expired(first, NOW, **RETRY))
    assert (second.artifacts, second.outputs, second.record) == ((), (), RECORD)


def test_only_what_is_pending_is_granted() -> None:
    with pytest.raises(ApiError) as caught:
        claimed(claimed())
    assert code_of(caught) == "wrong_state"


def test_a_second_heartbeat_changes_nothing() -> None:
    request = working()
    assert request.attempts == 1
    assert leases.heard(request, NOW + 5) is request


def test_a_slide_fetched_ahead_is_begun_by_the_first_heartbeat_that_says_so_and_no_other() -> None:
    ahead = claimed()
    ahead = replace(ahead, grants=transition.with_last_grant(ahead, prefetch=True))
    fetched = leases.heard(ahead, NOW, prefetch=True)
    assert leases.heard(fetched, NOW, prefetch=True) is fetched
    begun = leases.heard(fetched, NOW)
    assert [event.event for event in begun.history[-2:]] == ["confirmed", "begun"]
    assert leases.heard(begun, NOW, prefetch=True) is begun


def test_back_off_doubles_and_is_bounded() -> None:
    waits = [transition.back_off(attempts, retry_s=30, jitter=0) for attempts in (1, 2, 3, 20)]
    assert waits == [30, 60, 120, 3600]
    assert transition.back_off(1, retry_s=30, jitter=1) == 45


def test_expiry_of_a_confirmed_lease_waits_and_counts() -> None:
    request = leases.expired(working(), NOW, **RETRY)
    assert (request.status, request.attempts, request.not_before) == ("pending", 1, NOW + 30)


def test_expiry_of_an_unconfirmed_lease_is_free_at_once() -> None:
    request = leases.expired(claimed(), NOW, **RETRY)
    assert (request.status, request.attempts, request.not_before) == ("pending", 0, None)
    assert request.grants[-1].outcome == "unconfirmed"


def test_a_lease_that_was_never_confirmed_takes_no_earlier_attempt_off_the_count() -> None:
    failed = leases.expired(working(), NOW, **RETRY)
    assert leases.handed_back(claimed(failed), NOW).attempts == 1


def test_the_last_attempt_that_expires_fails_the_request() -> None:
    request = a_request(max_attempts=1)
    assert leases.expired(working(request), NOW, **RETRY).status == "failed"


def test_a_lease_taken_up_again_is_counted_once() -> None:
    request = leases.expired(working(), NOW, **RETRY)
    again = leases.heard(request, NOW)
    assert (again.status, again.attempts, again.not_before) == ("processing", 1, None)
    assert again.grants == working().grants


def test_a_lease_handed_back_is_not_taken_up_again() -> None:
    request = leases.handed_back(working(), NOW)
    assert (request.status, request.attempts) == ("pending", 0)
    with pytest.raises(ApiError) as caught:
        leases.heard(request, NOW)
    assert code_of(caught) == "lease_lost"


def test_a_result_counts_after_expiry() -> None:
    request = leases.expired(working(), NOW, **RETRY)
    assert delivery.publishing(request, a_delivery(), NOW).status == "publishing"


def test_a_delivery_is_what_its_completion_names_and_nothing_from_before() -> None:
    failed = delivery.failed(working(), Failure("x", "", True), NOW, body_sha256="b", **RETRY)
    late = leases.expired(working(failed), NOW, **RETRY)
    late = delivery.with_artifact(late, HEATMAP, REPORT)
    late = delivery.with_artifact(
        late, replace(HEATMAP, name="scores.json"), replace(REPORT, sop_instance_uid="2")
    )
    request = delivery.publishing(late, replace(a_delivery(), artifacts=(HEATMAP,), outputs=(REPORT,)), NOW)
    assert (request.artifacts, request.outputs) == ((HEATMAP,), (REPORT,))
    assert (request.error, request.not_before, request.history[-1].detail) == (None, None, "")


def test_a_result_wins_over_a_cancel_and_says_so() -> None:
    request = delivery.publishing(lifecycle.cancelled(working(), "alice", NOW), a_delivery(), NOW)
    assert (request.status, request.cancel_requested) == ("publishing", False)
    assert request.history[-1].detail == "a cancel came too late"


def test_a_dicom_result_that_is_sent_again_is_kept_once() -> None:
    once = delivery.with_artifact(working(), HEATMAP, REPORT)
    assert delivery.with_artifact(once, HEATMAP, REPORT).outputs == (REPORT,)


@pytest.mark.parametrize(
    "bring",
    [
        lambda request: delivery.publishing(request, a_delivery(), NOW),
        lambda request: delivery.failed(request, Failure("x", "", True), NOW, body_sha256="b", **RETRY),
        lambda request: delivery.series_changed(request, "g", NOW, body_sha256="b"),
        lambda request: delivery.with_artifact(request, HEATMAP, None),
    ],
    ids=["result", "error", "changed slide", "file"],
)
@pytest.mark.parametrize("status", ["publishing", "completed", "failed", "cancelled", "withdrawn"])
def test_nothing_is_taken_of_a_worker_once_the_request_has_ended(bring: Any, status: str) -> None:
    with pytest.raises(ApiError) as caught:
        bring(replace(working(), status=status))
    assert code_of(caught) == "lease_lost"


@pytest.mark.parametrize("status", ["pending", "publishing", "completed", "failed", "cancelled", "withdrawn"])
def test_a_lease_that_is_no_longer_held_ends_nothing(status: str) -> None:
    request = replace(working(), status=status)
    assert leases.handed_back(request, NOW) is request
    assert leases.expired(request, NOW, **RETRY) is request


def test_a_fence_and_its_token_belong_together() -> None:
    request = working()
    assert leases.authorised(request, 1, "t" * 64) is request.grants[-1]
    for fence, token in ((2, "t" * 64), (1, "x" * 64)):
        with pytest.raises(ApiError) as caught:
            leases.authorised(request, fence, token)
        assert code_of(caught) == "lease_lost"


@pytest.mark.parametrize("most", [3, 20])
def test_however_often_it_is_handed_back_every_failed_attempt_keeps_its_reason(most: int) -> None:
    request, codes = a_request(max_attempts=most), [f"code-{number}" for number in range(most)]
    for code in codes:
        for _ in range(10):
            request = leases.handed_back(working(request), NOW)
        failure = Failure(code, "", retryable=True)
        request = delivery.failed(working(request), failure, NOW, body_sha256="b", **RETRY)
    assert request.status == "failed"
    assert [grant.error.code for grant in request.grants if grant.error] == codes
    assert len(request.grants) == max(most, 8)


def test_a_failure_that_may_pass_is_tried_again_others_are_not() -> None:
    passing, lasting = Failure("gpu_lost", "", True), Failure("no_tissue", "", False)
    assert delivery.failed(working(), passing, NOW, body_sha256="b", **RETRY).status == "pending"
    assert delivery.failed(working(), lasting, NOW, body_sha256="b", **RETRY).status == "failed"


def test_a_failure_without_a_heartbeat_counts_as_an_attempt() -> None:
    request = delivery.failed(claimed(), Failure("x", "", True), NOW, body_sha256="b", **RETRY)
    assert request.attempts == 1


def test_after_its_failure_a_lease_brings_nothing_more() -> None:
    request = delivery.failed(working(), Failure("x", "", True), NOW, body_sha256="b", **RETRY)
    assert not leases.may_still_deliver(request)


def test_a_failure_that_an_earlier_version_stored_under_another_outcomes_name_is_read_as_one() -> None:
    failed = delivery.failed(working(), Failure("expired", "", True), NOW, body_sha256="b", **RETRY)
    stored = replace(failed, grants=transition.with_last_grant(failed, outcome="expired"))
    (read,) = decode_state("s", encode_state(SeriesState("s", 5101, 1, (stored,)))).requests
    assert leases.may_still_deliver(stored)
    assert not leases.may_still_deliver(read)
    assert read == failed


def test_a_slide_found_changed_after_its_lease_ran_out_waits_for_nothing() -> None:
    late = leases.expired(working(), NOW, **RETRY)
    request = delivery.series_changed(late, "g", NOW, body_sha256="b")
    assert (request.not_before, request.error, request.attempts) == (None, None, 0)


def test_a_changed_slide_is_queued_again_once() -> None:
    once = delivery.series_changed(working(), "g", NOW, body_sha256="b")
    assert (once.status, once.attempts, once.fingerprint) == ("pending", 0, "g")
    twice = delivery.series_changed(working(once), "h", NOW, body_sha256="b")
    assert (twice.status, twice.error and twice.error.code) == ("failed", "series_changed")


def test_a_retry_starts_afresh_and_ends_the_old_lease() -> None:
    failed = leases.expired(working(a_request(max_attempts=1)), NOW, **RETRY)
    request = lifecycle.retried(failed, "alice", NOW)
    assert (request.status, request.attempts) == ("pending", 0)
    assert not leases.may_still_deliver(request)


def test_a_retry_after_a_slide_that_kept_changing_bears_another_change() -> None:
    once = delivery.series_changed(working(), "g", NOW, body_sha256="b")
    request = lifecycle.retried(
        delivery.series_changed(working(once), "h", NOW, body_sha256="b"), "alice", NOW
    )
    assert delivery.series_changed(working(request), "i", NOW, body_sha256="b").status == "pending"


def test_the_worker_of_a_cancelled_request_that_is_retried_is_not_told_to_stop() -> None:
    cancelled = leases.handed_back(lifecycle.cancelled(working(), "alice", NOW), NOW)
    again = delivery.failed(
        working(lifecycle.retried(cancelled, "alice", NOW)),
        Failure("x", "", True),
        NOW,
        body_sha256="b",
        **RETRY,
    )
    assert again.status == "pending"


def test_what_fails_again_after_a_retry_is_retried_again() -> None:
    failed = leases.expired(working(a_request(max_attempts=1)), NOW, **RETRY)
    failed_again = leases.expired(working(lifecycle.retried(failed, "alice", NOW)), NOW, **RETRY)
    assert lifecycle.retried(failed_again, "alice", NOW).status == "pending"


def test_what_a_worker_is_at_is_not_retried() -> None:
    with pytest.raises(ApiError) as caught:
        lifecycle.retried(working(), "alice", NOW)
    assert code_of(caught) == "wrong_state"


def test_a_request_for_any_model_stands_for_none_that_is_named_while_another_may_take_it() -> None:
    for open_request in (a_request(model=None), working(a_request(model=None))):
        assert not lifecycle.same_wish(open_request, a_request())


def test_who_retries_what_was_withdrawn_needs_no_force() -> None:
    with pytest.raises(ApiError, match=r"withdrawn cannot be retried\. Submit the slide again\.$"):
        lifecycle.retried(a_request(status="withdrawn"), "alice", NOW)


def test_who_retries_what_has_a_result_is_told_how_to_have_another() -> None:
    with pytest.raises(ApiError, match=r"completed cannot be retried\. Submit the slide again with force\."):
        lifecycle.retried(replace(a_request(), status="completed"), "alice", NOW)


def test_a_retry_makes_a_waiting_request_due() -> None:
    waiting = leases.expired(working(), NOW, **RETRY)
    assert not leases.is_due(waiting, NOW)
    due = lifecycle.retried(waiting, "alice", NOW)
    assert leases.is_due(due, NOW)
    assert lifecycle.retried(due, "alice", NOW) is due


def test_a_retry_of_what_ended_while_it_waited_is_due() -> None:
    waiting = leases.expired(working(), NOW, **RETRY)
    for ended in (
        lifecycle.cancelled(waiting, "alice", NOW),
        delivery.failed(waiting, Failure("no_tissue", "", False), NOW, body_sha256="b", **RETRY),
    ):
        assert leases.is_due(lifecycle.retried(ended, "alice", NOW), NOW)


def test_a_retry_that_is_sent_again_once_a_worker_has_begun_changes_nothing() -> None:
    at_work = working(lifecycle.retried(lifecycle.cancelled(a_request(), "alice", NOW), "alice", NOW))
    for by in ("alice", "bob"):
        assert lifecycle.retried(at_work, by, NOW) is at_work
        with pytest.raises(ApiError, match="retried"):
            lifecycle.retried(lifecycle.cancelled(at_work, "bob", NOW), by, NOW)


def test_a_copy_of_an_open_request_is_what_was_submitted() -> None:
    once = delivery.series_changed(working(), "f", NOW, body_sha256="b")
    waiting = delivery.failed(working(once), Failure("x", "", True), NOW, body_sha256="b", **RETRY)
    at_work = delivery.with_artifact(working(waiting), HEATMAP, REPORT)
    brought = replace(a_delivery(), artifacts=(HEATMAP,), outputs=(REPORT,))
    for request in (
        waiting,
        lifecycle.cancelled(at_work, "alice", NOW),
        delivery.publishing(at_work, brought, NOW),
    ):
        assert lifecycle.as_submitted(request) == replace(a_request(), history=request.history)


def test_a_cancel_during_publishing_is_refused() -> None:
    request = delivery.publishing(working(), a_delivery(), NOW)
    with pytest.raises(ApiError) as caught:
        lifecycle.cancelled(request, "alice", NOW)
    assert code_of(caught) == "wrong_state"


def test_a_cancel_twice_is_no_error() -> None:
    for begun in (a_request(), working()):
        request = lifecycle.cancelled(begun, "alice", NOW)
        assert lifecycle.cancelled(request, "bob", NOW) is request


def completed() -> AnalysisRequest:
    return delivery.completed(delivery.publishing(working(), a_delivery(), NOW), (), NOW)


def test_a_withdrawal_is_no_error_again_but_one_by_another_or_for_another_reason_is() -> None:
    request = lifecycle.withdrawn(completed(), "alice", "wrong slide", NOW)
    assert lifecycle.withdrawn(request, "alice", "wrong slide", NOW + 9) is request
    for by, reason in (("bob", "wrong slide"), ("alice", "blurred")):
        with pytest.raises(ApiError) as caught:
            lifecycle.withdrawn(request, by, reason, NOW)
        assert code_of(caught) == "wrong_state"


def test_a_review_again_is_no_line_of_the_history_but_another_one_is() -> None:
    review = Review("agree", "", "alice", NOW)
    request = lifecycle.reviewed(completed(), review)
    assert lifecycle.reviewed(request, replace(review, at=NOW + 9)) is request
    assert request.history[-1].detail == "agree"
    assert lifecycle.reviewed(request, replace(review, comment="why")).history[-1].detail == "agree: why"
    for other in (replace(review, by="bob"), replace(review, comment="why"), replace(review, verdict="x")):
        assert len(lifecycle.reviewed(request, other).history) == len(request.history) + 1


def test_a_review_again_is_no_error_where_the_result_was_withdrawn_since() -> None:
    review = Review("agree", "", "alice", NOW)
    request = lifecycle.withdrawn(lifecycle.reviewed(completed(), review), "bob", "wrong slide", NOW)
    assert lifecycle.reviewed(request, review) is request
    with pytest.raises(ApiError):
        lifecycle.reviewed(request, replace(review, by="bob"))


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (lambda request: leases.expired(request, NOW, **RETRY), values.ENDED_BY_PERSON),
        (lambda request: leases.handed_back(request, NOW), values.ENDED_BY_PERSON),
        (lambda request: leases.cancel_confirmed(request, NOW), values.ENDED_BY_PERSON),
        (
            lambda request: delivery.series_changed(request, "g", NOW, body_sha256="b"),
            values.SERIES_CHANGED,
        ),
        (
            lambda request: delivery.failed(request, Failure("x", "", True), NOW, body_sha256="b", **RETRY),
            values.FAILED,
        ),
    ],
)
def test_whatever_ends_a_cancelled_lease_ends_it_cancelled(ending: Any, outcome: str) -> None:
    request = ending(lifecycle.cancelled(working(), "alice", NOW))
    assert (request.status, request.grants[-1].outcome) == ("cancelled", outcome)


def test_a_worker_that_confirms_a_cancel_again_is_told_the_same() -> None:
    request = leases.cancel_confirmed(lifecycle.cancelled(working(), "alice", NOW), NOW)
    assert leases.cancel_confirmed(request, NOW) is request


def test_a_worker_cancels_only_what_a_person_cancelled() -> None:
    with pytest.raises(ApiError):
        leases.cancel_confirmed(working(), NOW)


@pytest.mark.parametrize("granted", [claimed(), working()], ids=["without a heartbeat", "with one"])
def test_publishing_of_a_replaced_slide_begins_again_uncounted(granted: AnalysisRequest) -> None:
    request = delivery.publishing(granted, replace(a_delivery(), outputs=(REPORT,)), NOW)
    replaced = lifecycle.source_replaced(request, "g", NOW)
    assert (replaced.status, replaced.attempts) == ("pending", 0)
    assert (replaced.record, replaced.outputs, replaced.summary) == (None, (), None)
    assert replaced.flags == (values.SOURCE_REPLACED,)


def test_history_keeps_its_beginning_and_its_end() -> None:
    request = a_request()
    for number in range(100):
        request = lifecycle.retried(replace(request, not_before=NOW), f"p{number}", NOW)
    assert len(request.history) == 32
    assert request.history[0].event == "submitted"
    assert request.history[-1].by == "p99"


def test_a_clock_set_back_does_not_turn_updated_back() -> None:
    assert lifecycle.cancelled(a_request(), "alice", NOW - 500).updated == NOW
    assert lifecycle.cancelled(a_request(), "alice", NOW + 500).updated == NOW + 500


def test_a_clock_set_back_makes_nothing_wait_longer() -> None:
    waiting = leases.expired(working(), NOW, **RETRY)
    assert not leases.is_due(waiting, NOW + 29)
    assert leases.is_due(waiting, NOW + 30)
    assert leases.is_due(waiting, NOW - 3600)


def delivered() -> AnalysisRequest:
    return delivery.publishing(working(), a_delivery(), NOW)


@pytest.mark.parametrize(
    ("request_of_f", "covers_g"),
    [
        (a_request(), True),
        (working(), True),
        (replace(working(), series_changes=1), False),
        (replace(working(), grants=(replace(working().grants[-1], tokenless=True),)), False),
        (delivered(), False),
        (delivery.completed(delivered(), (), NOW), False),
    ],
    ids=["waits", "at work", "changed once already", "an older worker's", "delivered", "done"],
)
def test_a_request_covers_new_content_of_its_slide_while_it_will_still_take_it(
    request_of_f: AnalysisRequest, covers_g: bool
) -> None:
    assert lifecycle.covers(request_of_f, "f")
    assert lifecycle.covers(request_of_f, "g") is covers_g
    assert lifecycle.same_wish(request_of_f, a_request(fingerprint="g")) is covers_g


def test_a_result_of_a_slide_that_was_replaced_before_is_not_said_to_be_of_the_former() -> None:
    waiting = lifecycle.source_replaced(a_request(), "g", NOW)
    assert waiting.flags == (values.SOURCE_REPLACED,)
    done = delivery.publishing(working(waiting), replace(a_delivery(), flags=(values.UNAPPROVED_MODEL,)), NOW)
    assert done.flags == (values.UNAPPROVED_MODEL,)


def test_that_a_slide_has_changed_since_is_said_of_results_alone_and_once() -> None:
    done = delivery.completed(delivered(), (), NOW)
    flagged = lifecycle.slide_settled(done, "g", NOW)
    assert flagged.flags == (*done.flags, values.SLIDE_CHANGED)
    assert lifecycle.slide_settled(flagged, "h", NOW) is flagged
    assert lifecycle.slide_settled(done, "f", NOW) is done
    for request in (a_request(), working(), lifecycle.source_replaced(done, "g", NOW)):
        assert lifecycle.slide_settled(request, "g", NOW) is request


def test_a_result_that_went_with_its_slide_stands_for_nothing() -> None:
    done = delivery.completed(delivered(), (), NOW)
    assert lifecycle.counts_as_repeat(done)
    assert not lifecycle.counts_as_repeat(lifecycle.source_replaced(done, "f", NOW))
