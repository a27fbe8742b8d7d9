# SPDX-License-Identifier: AGPL-3.0-or-later
"""GET /pathology/openapi.json: valid, complete, and what real answers are like."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from orthanc_plugin.openapi import OPERATIONS
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
