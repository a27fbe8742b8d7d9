# SPDX-License-Identifier: AGPL-3.0-or-later
"""GET /pathology/openapi.json: valid, complete, and what real answers are like."""

from __future__ import annotations

import re
from functools import reduce
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from orthanc_plugin.openapi import OPERATIONS
from tests.support.orthanc_server import ROOT
from tests.support.queue_client import Queue
from tests.support.sites import WORKER, MemorySite, Site


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
