# SPDX-License-Identifier: AGPL-3.0-or-later
"""GET /pathology/openapi.json: valid, complete, and what real answers are like."""

from __future__ import annotations

import re
from functools import reduce
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from orthanc_plugin.routes.openapi import OPERATIONS
from tests.support.orthanc_server import ROOT
from tests.support.queue_client import PNG, Queue, named
from tests.support.sites import WORKER, Answer, MemorySite, Site
from tests.support.tiny_dicom import tiny_result


@pytest.fixture
def document(site: Site) -> dict[str, Any]:
    answer = site.call("GET", "/pathology/openapi.json", user=WORKER)
    assert answer.status == 200
    return answer.json


def problems(document: dict[str, Any], name: str, value: Any) -> list[str]:
    """Return where a value is not what the document's schema of this name says."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(value)]


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_of_the_router_is_documented_and_no_other() -> None:
    routes = MemorySite().application.router.routes
    assert {(route.method, route.path) for route in routes} == set(OPERATIONS)


def test_every_route_says_what_it_does_and_for_whom(document: dict[str, Any]) -> None:
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(operation["summary"].endswith(".") for operation in operations)
    assert len({operation["operationId"] for operation in operations}) == len(operations) == len(OPERATIONS)


def test_answers_are_what_the_document_says(document: dict[str, Any], queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    submitted = queue.submit(slide)
    lease = queue.claim()
    completed = lease.complete()
    one = site.call("GET", f"/pathology/requests/{lease.request_id}")
    listed = site.call("GET", "/pathology/requests/", query={"model": queue.model, "full": "1"})
    refused = site.call("POST", "/pathology/analyze", body={"series": slide.series, "priority": 1000})

    assert problems(document, "Submitted", submitted.json) == []
    assert problems(document, "Granted", lease.claimed) == []
    assert problems(document, "One", completed.json) == []
    assert problems(document, "One", one.json) == []
    assert problems(document, "List", listed.json) == []
    assert problems(document, "Error", refused.json) == []


def described(document: dict[str, Any], method: str, path: str, answer: Answer) -> list[str]:
    """Return where an answer is not what the document says of its route: status, type or members."""
    responses = document["paths"][path][method.lower()]["responses"]
    content_type = answer.headers.get("content-type", "").split(";")[0]
    types = {name.split(";")[0]: of for name, of in responses[str(answer.status)].get("content", {}).items()}
    if content_type not in types and types:
        return [f"{content_type} is none of {sorted(types)}"]
    schema = types.get(content_type, {}).get("schema")
    return [] if schema is None else problems(document, schema["$ref"].rsplit("/", 1)[-1], answer.json)


def test_every_route_answers_with_the_status_type_and_members_that_it_is_documented_with(
    document: dict[str, Any], queue: Queue, site: Site
) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    lease = queue.claim()
    one, worker_id = f"/pathology/requests/{lease.request_id}", lease.claimed["request"]["worker_id"]
    result = tiny_result(slide.study_uid)
    files = {"heatmap.png": (PNG, "image/png"), "sr.dcm": (result, "application/dicom")}
    put = "/pathology/requests/{request_id}/artifacts/{name}"
    answers = [
        ("POST", "/pathology/update-status/{request_id}", lease.heartbeat(stage="encode")),
        *(("PUT", put, lease.put(name, *file)) for name, file in files.items()),
    ]
    named_files = [named(name, content) for name, (content, _) in files.items()]
    answers += [
        ("POST", "/pathology/complete-request/{request_id}", lease.complete(*named_files)),
        ("GET", "/pathology/requests/{request_id}", site.call("GET", one)),
        *(("GET", put, site.call("GET", f"{one}/artifacts/{name}")) for name in files),
        ("GET", "/pathology/health", site.call("GET", "/pathology/health")),
        ("GET", "/pathology/metrics", site.call("GET", "/pathology/metrics")),
        ("GET", "/pathology/workers", site.call("GET", "/pathology/workers")),
        ("GET", "/pathology/source.tar.gz", site.call("GET", "/pathology/source.tar.gz")),
        ("GET", "/pathology/app/{path}", site.call("GET", "/pathology/app/app/worklist.html")),
        (
            "POST",
            "/pathology/workers/{worker_id}/drain",
            site.call("POST", f"/pathology/workers/{worker_id}/drain", body={"drain": False}),
        ),
    ]
    assert [answer.status for _, _, answer in answers if answer.status >= 400] == []
    assert [(path, described(document, method, path, answer)) for method, path, answer in answers] == [
        (path, []) for _, path, _ in answers
    ]


@pytest.mark.parametrize(
    "ranges", [[], [[0, 0]], [[-1, 1]], [[0, 2**26]], [[0]], [[0, 1, 2]], [[0, 1]] * 513]
)
def test_ranges_that_are_refused_are_forbidden_by_the_document(
    document: dict[str, Any], site: Site, ranges: list[Any]
) -> None:
    assert problems(document, "Ranges", {"ranges": ranges})
    answer = site.call("POST", "/pathology/instances/x/ranges", body={"ranges": ranges})
    assert answer.status in {400, 413}


def test_ranges_that_are_read_are_allowed_by_the_document(document: dict[str, Any]) -> None:
    assert problems(document, "Ranges", {"ranges": [[0, 1], [2**62, 2**25]]}) == []


def test_attempts_reviews_and_history_are_what_the_document_says(
    document: dict[str, Any], queue: Queue, site: Site
) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    lease.heartbeat(stage="encode", detail="half of it")
    assert problems(document, "Request", queue.get(request_id)) == []
    lease.fail("out_of_memory", retryable=True)
    assert problems(document, "Request", queue.get(request_id)) == []
    queue.decide(request_id, "retry")
    queue.claim().complete()
    assert queue.decide(request_id, "review", verdict="agree").status == 200
    request = queue.get(request_id)
    assert [attempt["outcome"] for attempt in request["grants"]] == ["failed", "delivered"]
    assert problems(document, "Request", request) == []


@pytest.mark.parametrize(
    ("member", "wrong"),
    [("outcome", "out_of_memory"), ("error", {"code": "x"}), ("confirmed", None), ("fence", 0)],
)
def test_an_attempt_that_says_anything_else_is_none(
    document: dict[str, Any], queue: Queue, member: str, wrong: Any
) -> None:
    queue.submitted()
    (attempt,) = queue.get(queue.claim().request_id)["grants"]
    assert problems(document, "Attempt", attempt) == []
    assert problems(document, "Attempt", {**attempt, member: wrong})


@pytest.mark.parametrize(
    ("names", "schema"),
    [
        (r"Their `outcome` is `null` while they hold, then(.*?)\.\n", ("Attempt", "properties", "outcome")),
        (r"^`flags`:(.*?)\n`version`", ("Request", "properties", "flags", "items")),
    ],
)
def test_the_outcomes_and_flags_are_those_that_the_contract_names(
    document: dict[str, Any], names: str, schema: tuple[str, ...]
) -> None:
    found = re.search(names, (ROOT / "docs/rest.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None
    described = reduce(lambda value, key: value[key], schema, document["components"]["schemas"])
    told = set(re.findall(r"`([a-z]+(?:_[a-z]+)*)`", found[1])) - {"error", "result"}
    assert set(described["enum"]) - {None} == told


def test_what_older_workers_send_is_allowed_where_it_is_taken(
    document: dict[str, Any], queue: Queue, site: Site
) -> None:
    request_id = queue.submitted()
    bodies = {
        "Report": ("update-status", {"status": "processing"}),
        "Completion": ("complete-request", {"error": "out of memory"}),
    }
    for name, (route, body) in bodies.items():
        assert problems(document, name, body) == []
        assert (
            site.call("POST", f"/api/pathology/{route}/{request_id}/", user=WORKER, body=body).status == 200
        )


def test_a_token_without_its_fence_is_no_older_workers_body(document: dict[str, Any]) -> None:
    assert problems(document, "Report", {"worker_id": "w", "token": "0" * 32})
    assert problems(document, "Completion", {"worker_id": "w", "token": "0" * 32, "error": "a text"})


@pytest.mark.parametrize(
    "change",
    [{"priority": 1000}, {"series": 5}, {"forse": True}, {"cohort": {"series": []}}, {"model": ""}],
)
def test_what_the_document_forbids_is_refused(
    document: dict[str, Any], queue: Queue, site: Site, change: dict[str, Any]
) -> None:
    body = {"series": "x", **change}
    assert problems(document, "Analyze", body)
    assert site.call("POST", "/pathology/analyze", body=body).status == 400
