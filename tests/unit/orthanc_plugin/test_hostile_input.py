# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a broken or hostile client sends gets a sentence, never the plugin's own 500."""

from __future__ import annotations

import base64
import json

import pytest

from orthanc_plugin.results.artifacts import MOST_ARTIFACTS
from tests.support.queue_client import PNG, Queue
from tests.support.sites import WORKER, Answer, MemorySite

JSON_TYPE = {"Content-Type": "application/json"}


@pytest.fixture
def site() -> MemorySite:
    return MemorySite()


@pytest.fixture
def queue(site: MemorySite) -> Queue:
    return Queue(site)


def submit_text(site: MemorySite, parameters: str) -> Answer:
    series = site.new_slide().series
    body = f'{{"series": "{series}", "parameters": {parameters}}}'
    return site.call("POST", "/pathology/analyze", data=body.encode(), headers=JSON_TYPE)


@pytest.mark.parametrize(
    "parameters",
    [
        '{"threshold": 1e999}',
        '{"threshold": -1e999}',
        '{"threshold": NaN}',
        '{"note": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"deep": ' + "[" * 500 + "]" * 500 + "}",
        '{"deep": ' + "[" * 20_000 + "]" * 20_000 + "}",
    ],
    ids=["infinity", "-infinity", "nan", "surrogate", "surrogate as a name", "deep", "very deep"],
)
def test_json_that_cannot_be_stored_is_a_400(site: MemorySite, parameters: str) -> None:
    answer = submit_text(site, parameters)
    assert (answer.status, answer.json["code"]) == (400, "bad_json")


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ("[" * 29 + "]" * 29, 201),
        ("[" * 30 + "]" * 30, 400),
        ("[]," * 500 + "[]", 201),
        ('"' + "[" * 500 + '"', 201),
        (r'"\"' + "[" * 500 + r'\\"', 201),
        (r'"\\",' + "[" * 500 + "]" * 500, 400),
        ("[" * 500, 400),
        ("[" * 500 + "}" * 500, 400),
    ],
    ids=["32", "33", "beside", "text", "escaped", "after an escape", "open", "crossed"],
)
def test_json_is_taken_up_to_32_levels_of_nesting(site: MemorySite, parameters: str, status: int) -> None:
    assert submit_text(site, f'{{"a": [{parameters}]}}').status == status


def test_characters_beyond_the_basic_plane_are_taken(site: MemorySite) -> None:
    assert submit_text(site, '{"note": "\\ud83d\\ude00"}').status == 201


def test_a_result_with_an_infinite_number_is_a_400(site: MemorySite, queue: Queue) -> None:
    queue.submitted()
    lease = queue.claim()
    body = json.dumps(lease.body(result={"predicted_class": "a", "score": 1})).replace(
        '"score": 1', '"score": 1e999'
    )
    answer = site.call(
        "POST",
        f"/pathology/complete-request/{lease.request_id}",
        user=WORKER,
        data=body.encode(),
        headers=JSON_TYPE,
    )
    assert (answer.status, answer.json["code"]) == (400, "bad_json")


@pytest.mark.parametrize(
    "cursor", ["[" * 20_000, f'[1{"0" * 400}, "a"]', "[1]", "7", "null", '[NaN, "a"]', '[1e999, "a"]']
)
def test_a_cursor_that_was_tampered_with_is_a_400(site: MemorySite, cursor: str) -> None:
    text = base64.urlsafe_b64encode(cursor.encode()).decode()
    answer = site.call("GET", "/pathology/requests", query={"cursor": text})
    assert (answer.status, answer.json.get("field")) == (400, "cursor")


@pytest.mark.parametrize("origin", ["http://[", "null", "http://", "", "http://pacs.example@evil.example"])
def test_an_origin_that_is_no_address_is_another_site(site: MemorySite, origin: str) -> None:
    headers = {"Origin": origin, "Host": "pacs.example"}
    answer = site.call("POST", "/pathology/analyze", body={}, headers=headers)
    assert (answer.status, answer.json["code"]) == (403, "forbidden_origin")


def test_an_artifact_can_be_replaced_where_no_further_one_fits(queue: Queue) -> None:
    queue.submitted()
    lease = queue.claim()
    for number in range(MOST_ARTIFACTS):
        assert lease.put(f"patch-{number:03d}.jpg", b"\xff\xd8\xff", "image/jpeg").status == 200
    assert lease.put("heatmap.png", PNG).status == 413
    assert lease.put("patch-000.jpg", b"\xff\xd8\xffbetter", "image/jpeg").status == 200
