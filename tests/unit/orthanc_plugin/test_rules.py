# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules on arrival: each slide once for its content and model, whatever happens in between."""

from __future__ import annotations

from typing import Any

import pytest

from orthanc_plugin.errors import StorageError
from orthanc_plugin.queue.values import AnalysisRequest
from orthanc_plugin.service.changes import series_created, series_deleted
from orthanc_plugin.service.rules import SWEEP_EVERY_S, series_arrived, sweep, warn_of_unknown_tags
from tests.support.queue_client import Queue
from tests.support.sites import MemorySite, Slide, settings_of

RULE = {
    "Name": "mouths",
    "Match": {"BodyPartExamined": "MOUTH"},
    "Model": "oral",
    "Version": "1",
    "Priority": -10,
}


class Arrivals:
    """A site with rules, on which slides arrive."""

    def __init__(self, *rules: dict[str, Any]) -> None:
        self.site = MemorySite({"Rules": list(rules or (RULE,))})
        self.queue = Queue(self.site, "oral")
        sweep(self.site.application.core)  # sets the mark

    def slide(self, body_part: str = "MOUTH") -> Slide:
        slide = self.site.new_slide()
        self.site.gateway.describe(slide.series, {"BodyPartExamined": body_part})
        self.site.gateway.date(slide.series, self.site.clock.now())
        return slide

    def arrive(self, slide: Slide) -> None:
        series_arrived(self.site.application.core, slide.series)

    def sweep(self) -> float:
        return sweep(self.site.application.core)

    def change(self, slide: Slide) -> None:
        self.site.gateway.add_instance(slide.series, f"{slide.series_uid}.2")
        self.site.gateway.date(slide.series, self.site.clock.now())

    def requests(self) -> list[AnalysisRequest]:
        return self.site.application.core.index.snapshot()


def test_a_rule_on_what_is_no_tag_is_named_in_the_log() -> None:
    match = {"BodyPartExamind": "MOUTH", "Modality": "SM", "Stain": "*", "RemoteAET": "SCANNER"}
    site = Arrivals({**RULE, "Match": match}, RULE).site
    warn_of_unknown_tags(site.application.core)
    assert site.warnings == ["Rule mouths is never met: Orthanc knows no DICOM tag BodyPartExamind."]


def test_a_slide_that_meets_a_rule_is_submitted() -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.arrive(slide)
    (request,) = arrivals.requests()
    assert (request.series, request.model, request.model_version) == (slide.series, "oral", "1")
    assert request.priority == -10
    assert request.created_by == "rule mouths"


def test_one_that_meets_none_is_not() -> None:
    arrivals = Arrivals()
    arrivals.arrive(arrivals.slide("SKIN"))
    assert arrivals.requests() == []


def test_every_rule_that_is_met_submits() -> None:
    arrivals = Arrivals(RULE, {**RULE, "Model": "other"}, {**RULE, "Name": "again"})
    arrivals.arrive(arrivals.slide())
    assert sorted(str(request.model) for request in arrivals.requests()) == ["oral", "other"]


def test_the_same_slide_is_submitted_once_however_often_it_is_announced() -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.arrive(slide)
    arrivals.site.restart(kill=True)
    arrivals.arrive(slide)
    arrivals.site.overwrite(slide)
    arrivals.site.restart()
    arrivals.arrive(slide)
    assert len(arrivals.requests()) == 1


@pytest.mark.parametrize("decision", ["cancel", "withdraw"])
def test_a_rule_does_not_insist_where_a_person_has_decided(decision: str) -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.arrive(slide)
    request_id = arrivals.requests()[0].request_id
    if decision == "withdraw":
        assert arrivals.queue.claim().complete().status == 200
    assert arrivals.queue.decide(request_id, decision, reason="wrong slide").status == 200
    arrivals.site.restart()
    arrivals.arrive(slide)
    assert len(arrivals.requests()) == 1


def test_a_rule_does_not_come_back_for_a_result_that_went_with_its_slide() -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.arrive(slide)
    assert arrivals.queue.claim().complete().status == 200
    for _ in range(2):
        arrivals.site.gateway.delete_series(slide.series)
        arrivals.site.gateway.add_slide(slide.series_uid, slide.study_uid)
        arrivals.site.gateway.describe(slide.series, {"BodyPartExamined": "MOUTH"})
        series_deleted(arrivals.site.application.core, slide.series)
        series_created(arrivals.site.application.core, slide.series)
        arrivals.arrive(slide)
    (request,) = arrivals.requests()
    assert (request.status, request.record) == ("completed", None)


def test_a_rule_does_not_repeat_what_a_person_has_asked_for() -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.queue.submitted(slide, parameters={"a": 1})
    arrivals.arrive(slide)
    assert len(arrivals.requests()) == 1


def test_nor_what_a_worker_has_done_by_its_own_choice_of_the_model() -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.queue.submitted(slide, model=None)
    assert arrivals.queue.claim(default_model="oral").complete().status == 200
    arrivals.arrive(slide)
    assert len(arrivals.requests()) == 1


def test_a_rule_may_be_for_one_sender() -> None:
    arrivals = Arrivals({**RULE, "Match": {"RemoteAET": "SCANNER"}})
    slides = [arrivals.slide() for _ in range(3)]
    arrivals.site.gateway.describe(slides[0].series, {}, remote_aet="SCANNER")
    arrivals.site.gateway.describe(slides[1].series, {}, remote_aet="ANOTHER")
    for slide in slides:
        arrivals.arrive(slide)
    assert [request.series for request in arrivals.requests()] == [slides[0].series]


def test_a_slide_that_takes_no_further_request_is_said_and_keeps_no_rule_from_the_others() -> None:
    arrivals = Arrivals()
    full = arrivals.slide()
    for number in range(20):
        arrivals.queue.submitted(full, model="another", parameters={"n": number})
    other = arrivals.slide()
    arrivals.site.clock.advance(100)
    assert arrivals.sweep() == SWEEP_EVERY_S
    assert [request.series for request in arrivals.requests() if request.model == "oral"] == [other.series]
    (warning,) = arrivals.site.warnings
    assert warning.startswith(f"Rule mouths could not submit series {full.series}")
    assert " " not in (arrivals.site.gateway.get_global_property(5001) or ""), "it is looked at no more"


def test_a_slide_that_is_gone_when_it_is_announced_is_passed_over() -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.site.gateway.delete_series(slide.series)
    arrivals.arrive(slide)
    assert arrivals.requests() == []


def test_a_slide_is_read_once_however_often_the_sweep_comes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = Arrivals()
    arrivals.slide()
    arrivals.site.clock.advance(100)
    arrivals.sweep()
    monkeypatch.setattr(arrivals.site.gateway, "tags", lambda _: pytest.fail("it was read again"))
    assert arrivals.sweep() == SWEEP_EVERY_S
    assert arrivals.site.warnings == []


def test_new_content_of_a_slide_that_is_done_is_analysed_again() -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.arrive(slide)
    assert arrivals.queue.claim().complete().status == 200
    arrivals.change(slide)
    arrivals.arrive(slide)
    assert len(arrivals.requests()) == 2


def test_new_content_of_a_slide_that_waits_is_covered_by_its_request() -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.arrive(slide)
    arrivals.change(slide)
    arrivals.site.clock.advance(5)
    arrivals.arrive(slide)
    assert len(arrivals.requests()) == 1


def test_a_slide_that_is_still_arriving_is_left_alone() -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.site.gateway.set_stable(slide.series, is_stable=False)
    arrivals.arrive(slide)
    assert arrivals.requests() == []


def test_the_sweep_finds_a_slide_whose_event_was_lost() -> None:
    arrivals = Arrivals()
    arrivals.slide()
    arrivals.site.restart(kill=True)
    arrivals.site.clock.advance(100)
    assert arrivals.sweep() == SWEEP_EVERY_S
    assert len(arrivals.requests()) == 1


def test_the_sweep_comes_back_for_a_slide_that_may_not_be_complete() -> None:
    arrivals = Arrivals()
    arrivals.slide()
    assert arrivals.sweep() < SWEEP_EVERY_S
    assert arrivals.requests() == []


def test_the_sweep_comes_back_for_a_slide_of_which_files_come_slowly() -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.site.gateway.set_stable(slide.series, is_stable=False)
    arrivals.site.clock.advance(3 * 86400)
    assert arrivals.sweep() < SWEEP_EVERY_S
    arrivals.site.gateway.set_stable(slide.series, is_stable=True)
    arrivals.sweep()
    assert len(arrivals.requests()) == 1


def test_what_was_there_before_the_first_rule_is_left_alone() -> None:
    site = MemorySite({"Rules": [RULE]})
    old = site.new_slide()
    site.gateway.describe(old.series, {"BodyPartExamined": "MOUTH"})
    site.gateway.date(old.series, site.clock.now() - 5 * 86400)
    sweep(site.application.core)
    site.clock.advance(100)
    sweep(site.application.core)
    assert site.application.core.index.snapshot() == []


@pytest.mark.parametrize("waits_for", ["the rest", "one that could not be read"])
def test_nothing_is_submitted_while_our_own_results_are_not_all_known(waits_for: str) -> None:
    arrivals = Arrivals()
    slide = arrivals.slide()
    arrivals.site.clock.advance(100)
    ready = arrivals.site.application.core.ready
    if waits_for == "the rest":
        ready.all_known.clear()
    else:
        ready.unread.add("some series")
    arrivals.arrive(slide)
    assert arrivals.sweep() < SWEEP_EVERY_S
    assert arrivals.requests() == []
    ready.all_known.set()
    ready.unread.clear()
    arrivals.sweep()
    assert len(arrivals.requests()) == 1


def test_what_is_no_slide_is_passed_over_without_a_word() -> None:
    arrivals = Arrivals()
    gateway = arrivals.site.gateway
    label = arrivals.slide()
    arrivals.site.leave_label(label)
    scan = gateway.add_slide("1.2.3.99", "1.2.3", modality="CT", sop_class_uid="1.2.840.10008.5.1.4.1.1.2")
    for series_id in (label.series, scan):
        gateway.describe(series_id, {"BodyPartExamined": "MOUTH"})
        gateway.date(series_id, arrivals.site.clock.now())
        series_arrived(arrivals.site.application.core, series_id)
    arrivals.site.clock.advance(100)
    assert arrivals.sweep() == SWEEP_EVERY_S
    assert (arrivals.requests(), arrivals.site.warnings) == ([], [])


@pytest.mark.parametrize("operation", ["tags", "put_metadata"], ids=["read", "submitted"])
def test_a_slide_that_could_not_be_is_looked_at_again(operation: str) -> None:
    arrivals = Arrivals()
    arrivals.slide()
    arrivals.site.clock.advance(100)
    arrivals.site.gateway.fail_next(operation)
    arrivals.sweep()
    assert arrivals.requests() == []
    arrivals.sweep()
    assert len(arrivals.requests()) == 1


def damage(arrivals: Arrivals, monkeypatch: pytest.MonkeyPatch, *slides: Slide) -> None:
    """Let slides be ones that cannot be read."""
    gateway = arrivals.site.gateway
    damaged = {item.instance_id for slide in slides for item in gateway.instances(slide.series)}
    read = gateway.tags

    def tags(instance_id: str) -> Any:
        if instance_id in damaged:
            raise StorageError("The file is damaged.")
        return read(instance_id)

    monkeypatch.setattr(gateway, "tags", tags)


def test_one_bad_slide_keeps_no_other_from_its_analysis_and_is_looked_at_until_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrivals = Arrivals()
    bad = arrivals.slide()
    arrivals.site.clock.advance(3 * 86400)
    later = arrivals.slide()
    arrivals.site.clock.advance(100)
    damage(arrivals, monkeypatch, bad)
    for _ in range(2):
        assert arrivals.sweep() == SWEEP_EVERY_S
        assert [request.series for request in arrivals.requests()] == [later.series]
    assert bad.series in arrivals.site.warnings[-1]

    monkeypatch.undo()
    arrivals.site.restart()
    arrivals.sweep()
    assert {request.series for request in arrivals.requests()} == {bad.series, later.series}


def test_a_rule_added_later_submits_nothing_old_for_a_slide_that_could_never_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrivals = Arrivals()
    damage(arrivals, monkeypatch, arrivals.slide())
    for _ in range(3):
        arrivals.site.clock.advance(86400)
        arrivals.slide()
        arrivals.site.clock.advance(100)
        arrivals.sweep()
    arrivals.site.settings = settings_of({"Rules": [RULE, {**RULE, "Model": "new"}]})
    arrivals.site.clock.advance(86400)
    arrivals.slide()
    arrivals.site.restart(kill=True)
    arrivals.site.clock.advance(100)
    arrivals.sweep()
    # Those of the day of the mark, and the one that came since.
    assert len([request for request in arrivals.requests() if request.model == "new"]) == 2


def test_many_slides_that_cannot_be_read_are_all_looked_at_until_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrivals = Arrivals()
    slides = [arrivals.slide() for _ in range(120)]
    damage(arrivals, monkeypatch, *slides)
    arrivals.site.clock.advance(3 * 86400)
    arrivals.slide()
    arrivals.site.clock.advance(100)
    for _ in range(2):
        arrivals.sweep()
        assert len(arrivals.requests()) == 1
    assert len(arrivals.site.gateway.get_global_property(5001) or "") < 5_000

    monkeypatch.undo()
    arrivals.site.restart(kill=True)
    arrivals.sweep()
    assert len(arrivals.requests()) == 121


def test_a_slide_with_requests_of_a_newer_plugin_keeps_no_other_from_its_analysis() -> None:
    arrivals = Arrivals()
    newer, other = arrivals.slide(), arrivals.slide()
    state = b'{"schema":2,"revision":1,"next_number":5100,"folded":0,"requests":[]}'
    arrivals.site.gateway.put_metadata(newer.series, 5000, state)
    arrivals.site.clock.advance(100)
    arrivals.sweep()
    assert [request.series for request in arrivals.requests()] == [other.series]


def test_a_clock_set_back_by_an_hour_hides_no_slide_whose_event_was_lost() -> None:
    arrivals = Arrivals()
    arrivals.slide()
    arrivals.site.clock.advance(100)
    arrivals.sweep()
    arrivals.site.clock.shift(-3600)
    late = arrivals.slide()
    arrivals.site.clock.advance(100)
    arrivals.sweep()
    assert late.series in {request.series for request in arrivals.requests()}


def test_a_clock_that_ran_days_ahead_hides_no_slide_that_comes_after_it_was_set_right() -> None:
    arrivals = Arrivals()
    arrivals.site.clock.shift(5 * 86400)
    arrivals.slide()
    arrivals.site.clock.advance(100)
    arrivals.sweep()
    arrivals.site.clock.shift(-5 * 86400)
    arrivals.site.clock.advance(86400)
    arrivals.slide()
    arrivals.site.clock.advance(100)
    assert arrivals.sweep() == SWEEP_EVERY_S
    assert len(arrivals.requests()) == 2


def test_a_slide_dated_ahead_takes_the_mark_no_further_than_now() -> None:
    arrivals = Arrivals()
    arrivals.site.clock.shift(5 * 86400)
    arrivals.slide()
    arrivals.site.clock.shift(-5 * 86400)
    arrivals.site.clock.advance(100)
    arrivals.sweep()
    late = arrivals.slide()
    arrivals.site.restart(kill=True)
    arrivals.site.clock.advance(2 * 86400)
    arrivals.sweep()
    assert late.series in {request.series for request in arrivals.requests()}


def test_a_slide_that_settles_past_midnight_is_not_passed_over_for_one_dated_ahead() -> None:
    arrivals = Arrivals()
    clock = arrivals.site.clock
    clock.advance(86400 - clock.now() % 86400 - 30)
    late = arrivals.slide()
    clock.shift(86400)
    arrivals.slide()
    clock.shift(-86400)
    clock.advance(40)
    arrivals.sweep()
    assert late.series not in {request.series for request in arrivals.requests()}
    clock.advance(100)
    arrivals.sweep()
    assert late.series in {request.series for request in arrivals.requests()}


def test_a_slide_dated_ahead_by_a_wrong_clock_does_not_wait_for_that_date() -> None:
    arrivals = Arrivals()
    arrivals.site.clock.shift(5 * 86400)
    arrivals.slide()
    arrivals.site.clock.shift(-5 * 86400)
    arrivals.site.clock.advance(100)
    assert arrivals.sweep() == SWEEP_EVERY_S
    assert len(arrivals.requests()) == 1


def test_a_mark_that_cannot_be_written_is_said_and_left_to_the_next_look() -> None:
    arrivals = Arrivals()
    arrivals.site.clock.advance(100)
    arrivals.arrive(arrivals.slide())
    arrivals.site.clock.advance(100)
    before = arrivals.site.gateway.get_global_property(5001)
    arrivals.site.gateway.fail_next("set_global_property")
    assert arrivals.sweep() == SWEEP_EVERY_S
    assert arrivals.site.gateway.get_global_property(5001) == before
    (warning,) = arrivals.site.warnings
    assert warning.startswith("Up to when arrivals were looked at could not be written")
    assert arrivals.sweep() == SWEEP_EVERY_S
    assert arrivals.site.gateway.get_global_property(5001) != before
    assert len(arrivals.requests()) == 1


def test_without_rules_the_mark_is_forgotten() -> None:
    arrivals = Arrivals()
    site = MemorySite()
    site.gateway = arrivals.site.gateway
    site.restart()
    sweep(site.application.core)
    assert site.gateway.get_global_property(5001) == ""
    before = len(site.gateway.writes)
    assert sweep(site.application.core) == SWEEP_EVERY_S
    assert len(site.gateway.writes) == before
