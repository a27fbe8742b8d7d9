# SPDX-License-Identifier: AGPL-3.0-or-later
"""Many slides at once, one summary; and how long it is likely to take."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.queue_client import Queue, named
from tests.support.sites import Answer, Site
from tests.support.tiny_dicom import tiny_result


def submit(queue: Queue, cohort: Any, **members: Any) -> Answer:
    body = {"cohort": cohort, "model": queue.model, **members}
    return queue.site.call("POST", "/pathology/analyze", body=body)


def test_named_slides_are_submitted_with_one_summary(queue: Queue, site: Site) -> None:
    slides = [site.new_slide() for _ in range(3)]
    queue.submitted(slides[0])
    answer = submit(queue, {"series": [*(slide.series for slide in slides), slides[2].series, "gone"]})

    assert answer.status == 201
    assert answer.json["summary"] == {"created": 2, "existing": 1, "skipped": 1}
    assert [item["series"] for item in answer.json["requests"]] == [slide.series for slide in slides]
    (skipped,) = answer.json["skipped"]
    assert (skipped["series"], skipped["code"]) == ("gone", "unknown_resource")


def test_a_slide_that_takes_no_further_request_keeps_no_other_from_its(queue: Queue, site: Site) -> None:
    full, other = site.new_slide(), site.new_slide()
    for number in range(20):
        queue.submitted(full, parameters={"n": number})
    answer = submit(queue, {"series": [full.series, other.series]})
    assert [item["series"] for item in answer.json["requests"]] == [other.series]
    assert [item["code"] for item in answer.json["skipped"]] == ["too_many_requests_on_series"]


def test_the_same_cohort_again_makes_nothing_new(queue: Queue, site: Site) -> None:
    cohort = {"series": [site.new_slide().series for _ in range(2)]}
    submit(queue, cohort)
    answer = submit(queue, cohort)
    assert answer.status == 200
    assert answer.json["summary"] == {"created": 0, "existing": 2, "skipped": 0}


def test_a_query_finds_the_slides(queue: Queue, site: Site) -> None:
    slides = [site.new_slide() for _ in range(2)]
    answer = submit(queue, {"find": {"SeriesInstanceUID": "\\".join(slide.series_uid for slide in slides)}})
    assert answer.status == 201
    assert {item["series"] for item in answer.json["requests"]} == {slide.series for slide in slides}


def test_a_query_that_finds_nothing_says_so(queue: Queue) -> None:
    answer = submit(queue, {"find": {"SeriesInstanceUID": "9.9.9.9"}})
    assert (answer.status, answer.json["code"]) == (404, "unknown_resource")
    assert "No series has these tags" in answer.json["error"]


def test_a_query_by_what_is_no_tag_names_it(queue: Queue) -> None:
    answer = submit(queue, {"find": {"Modality": "SM", "nonsense": "1"}})
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert "'nonsense' is not" in answer.json["error"]


def test_a_query_by_a_misspelt_keyword_says_so_at_once(queue: Queue) -> None:
    answer = submit(queue, {"find": {"StudyDate": "20260101-", "BodyPartExamind": "MOUTH"}})
    assert (answer.status, answer.json["field"]) == (400, "cohort.find")
    assert "does not know all of these: StudyDate, BodyPartExamind" in answer.json["error"]


def test_a_query_passes_over_results_of_earlier_analyses_unless_it_asks_for_them(
    queue: Queue, site: Site
) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    lease, report = queue.claim(), tiny_result(slide.study_uid)
    lease.put("sr.dcm", report, "application/dicom")
    assert lease.complete(named("sr.dcm", report)).status == 200
    (output,) = queue.get(request_id)["dicom"]
    both = {"SeriesInstanceUID": f"{slide.series_uid}\\{output['series_instance_uid']}"}

    slides = submit(queue, {"find": both}).json
    assert ([item["series"] for item in slides["requests"]], slides["skipped"]) == ([slide.series], [])
    reports = submit(queue, {"find": {**both, "Modality": "SR"}})
    assert [item["code"] for item in reports.json["skipped"]] == ["derived_series"]


def test_a_cohort_without_a_slide_says_why_for_each(queue: Queue) -> None:
    answer = submit(queue, {"series": ["gone", "away"]})
    assert (answer.status, answer.json["code"]) == (422, "nothing_to_analyse")
    assert [item["series"] for item in answer.json["skipped"]] == ["gone", "away"]


@pytest.mark.parametrize(
    "cohort",
    [
        [],
        {},
        {"series": []},
        {"series": [1]},
        {"series": ["a"] * 1001},
        {"series": ["a"], "find": {"Modality": "SM"}},
        {"find": {}},
        {"find": {"0008,0060": "SM"}},
        {"find": {"Modality": 5}},
        {"serie": ["a"]},
    ],
)
def test_a_mistake_in_a_cohort_is_named(queue: Queue, cohort: Any) -> None:
    answer = submit(queue, cohort)
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert "field" in answer.json


def test_the_wait_is_unknown_until_a_request_of_the_model_was_completed(queue: Queue, site: Site) -> None:
    answer = queue.submit(site.new_slide())
    assert answer.json["estimated_wait_s"] is None


def test_the_wait_grows_with_what_is_ahead(queue: Queue, site: Site) -> None:
    queue.submitted()
    lease = queue.claim()
    site.pass_time(0.6)
    assert lease.complete().status == 200

    first = queue.submit(site.new_slide()).json["estimated_wait_s"]
    second = queue.submit(site.new_slide()).json["estimated_wait_s"]
    third = queue.submit(site.new_slide()).json["estimated_wait_s"]
    assert first == 0
    assert 0 < second < third
