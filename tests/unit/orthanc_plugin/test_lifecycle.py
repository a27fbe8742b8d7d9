# SPDX-License-Identifier: AGPL-3.0-or-later
"""The transitions of a request, as functions of values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orthanc_plugin import delivery, leases, lifecycle, transition, values
from orthanc_plugin.codec import SeriesState, decode_state, encode_state
from orthanc_plugin.errors import ApiError
from orthanc_plugin.values import AnalysisRequest, Artifact, Failure, Grant, Model, Review

NOW = 1000.0
RETRY: dict[str, float] = {"retry_s": 30.0, "jitter": 0.0}
RECORD = Artifact("record", 5100, 0, "", "application/json")


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


def test_only_what_is_pending_is_granted() -> None:
    with pytest.raises(ApiError) as caught:
        claimed(claimed())
    assert code_of(caught) == "wrong_state"


def test_a_second_heartbeat_changes_nothing() -> None:
    request = working()
    assert request.attempts == 1
    assert leases.heard(request, NOW + 5) is request


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


def test_the_last_attempt_that_expires_fails_the_request() -> None:
    request = a_request(max_attempts=1)
    assert leases.expired(working(request), NOW, **RETRY).status == "failed"


def test_a_lease_taken_up_again_is_counted_once() -> None:
    request = leases.expired(working(), NOW, **RETRY)
    again = leases.heard(request, NOW)
    assert (again.status, again.attempts, again.not_before) == ("processing", 1, None)


def test_a_lease_handed_back_is_not_taken_up_again() -> None:
    request = leases.handed_back(working(), NOW)
    assert (request.status, request.attempts) == ("pending", 0)
    with pytest.raises(ApiError) as caught:
        leases.heard(request, NOW)
    assert code_of(caught) == "lease_lost"


def test_a_result_counts_after_expiry() -> None:
    request = leases.expired(working(), NOW, **RETRY)
    assert delivery.publishing(request, a_delivery(), NOW).status == "publishing"


@pytest.mark.parametrize("status", ["publishing", "completed", "failed", "cancelled", "withdrawn"])
def test_a_result_does_not_count_once_the_request_has_ended(status: str) -> None:
    with pytest.raises(ApiError) as caught:
        delivery.publishing(replace(working(), status=status), a_delivery(), NOW)
    assert code_of(caught) == "lease_lost"


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


def test_a_retry_makes_a_waiting_request_due() -> None:
    waiting = leases.expired(working(), NOW, **RETRY)
    assert not leases.is_due(waiting, NOW)
    assert leases.is_due(lifecycle.retried(waiting, "alice", NOW), NOW)


def test_a_retry_that_is_sent_again_once_a_worker_has_begun_changes_nothing() -> None:
    at_work = working(lifecycle.retried(lifecycle.cancelled(a_request(), "alice", NOW), "alice", NOW))
    assert lifecycle.retried(at_work, "alice", NOW) is at_work
    for refused, by in ((at_work, "bob"), (lifecycle.cancelled(at_work, "bob", NOW), "alice")):
        with pytest.raises(ApiError, match="retried"):
            lifecycle.retried(refused, by, NOW)


def test_a_cancel_during_publishing_is_refused() -> None:
    request = delivery.publishing(working(), a_delivery(), NOW)
    with pytest.raises(ApiError) as caught:
        lifecycle.cancelled(request, "alice", NOW)
    assert code_of(caught) == "wrong_state"


def test_a_cancel_twice_is_no_error() -> None:
    request = lifecycle.cancelled(a_request(), "alice", NOW)
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
    for other in (replace(review, by="bob"), replace(review, comment="why"), replace(review, verdict="x")):
        assert len(lifecycle.reviewed(request, other).history) == len(request.history) + 1


def test_a_review_again_is_no_error_where_the_result_was_withdrawn_since() -> None:
    review = Review("agree", "", "alice", NOW)
    request = lifecycle.withdrawn(lifecycle.reviewed(completed(), review), "bob", "wrong slide", NOW)
    assert lifecycle.reviewed(request, review) is request
    with pytest.raises(ApiError):
        lifecycle.reviewed(request, replace(review, by="bob"))


@pytest.mark.parametrize(
    "ending",
    [
        lambda request: leases.expired(request, NOW, **RETRY),
        lambda request: leases.handed_back(request, NOW),
        lambda request: leases.cancel_confirmed(request, NOW),
        lambda request: delivery.series_changed(request, "g", NOW, body_sha256="b"),
        lambda request: delivery.failed(request, Failure("x", "", True), NOW, body_sha256="b", **RETRY),
    ],
)
def test_whatever_ends_a_cancelled_lease_ends_it_cancelled(ending: Any) -> None:
    assert ending(lifecycle.cancelled(working(), "alice", NOW)).status == "cancelled"


def test_a_worker_cancels_only_what_a_person_cancelled() -> None:
    with pytest.raises(ApiError):
        leases.cancel_confirmed(working(), NOW)


def test_publishing_of_a_replaced_slide_begins_again_uncounted() -> None:
    request = delivery.publishing(working(), a_delivery(), NOW)
    replaced = lifecycle.source_replaced(request, "g", NOW)
    assert (replaced.status, replaced.attempts, replaced.record) == ("pending", 0, None)
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
