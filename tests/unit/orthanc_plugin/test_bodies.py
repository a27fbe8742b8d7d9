# SPDX-License-Identifier: AGPL-3.0-or-later
"""What clients may send, member by member: up to which limit it is taken, and what is refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from orthanc_plugin.errors import ApiError
from orthanc_plugin.http import Request
from orthanc_plugin.routes import bodies

Read = Callable[[Mapping[str, Any]], Any]

ID, SHA, TOKEN = "x" * 64, "0" * 64, "0" * 32
ERROR = {"code": "gpu_lost", "message": "It went wrong.", "retryable": True}
FILE = {"name": "heatmap.png", "size": 0, "sha256": SHA}
FILES = [{**FILE, "name": f"patch-{number:03}.jpg"} for number in range(200)]


def _target(body: Mapping[str, Any]) -> Any:
    return bodies.target_of(body)


def _claim(body: Mapping[str, Any]) -> Any:
    return bodies.claim_of({"worker_id": "w", "token": TOKEN, **body}, "worker")


def _model(model: Mapping[str, Any]) -> Any:
    return _claim({"models": [{"name": "m", **model}]})


def _proof(body: Mapping[str, Any]) -> Any:
    return bodies.proof_of({"worker_id": "w", "token": TOKEN, "fence": 1, **body})


def _delivery(body: Mapping[str, Any]) -> Any:
    return bodies.outcome_of({"fingerprint": SHA, "result": {"a": 1}, **body})


def _file(file: Mapping[str, Any]) -> Any:
    return _delivery({"artifacts": [{**FILE, **file}]})


def _result(result: Mapping[str, Any]) -> Any:
    return _delivery({"result": {"a": 1, **result}})


def _probability(probabilities: Mapping[str, Any]) -> Any:
    return _result({"probabilities": probabilities})


def _cohort(cohort: Mapping[str, Any]) -> Any:
    return _target({"cohort": cohort})


def _error(error: Mapping[str, Any]) -> Any:
    return bodies.outcome_of({"error": {**ERROR, **error}})


def _older(body: Mapping[str, Any]) -> Any:
    return bodies.older_of(body, "worker")


def _text(longest: int) -> tuple[list[Any], list[Any]]:
    return ["x", "x" * longest, None], ["", "x" * (longest + 1), 5, ["x"], "a\nb", "a\x7f"]


def _name() -> tuple[list[Any], list[Any]]:
    return ["w", "W.1_a:b@c-d", "w" * 100], ["", "w" * 101, "a b", "-a", "a/b", 5, "a\n"]


def _whole(low: int, high: int) -> tuple[list[Any], list[Any]]:
    return [low, high], [low - 1, high + 1, True, str(low), float(high), [low]]


def _number(low: float, high: float) -> tuple[list[Any], list[Any]]:
    return [low, high, (low + high) / 2], [low - 0.001, high + 0.001, True, "1", [1]]


FLAG: tuple[list[Any], list[Any]] = [True, False], ["yes", 1, None]
DIGITS: tuple[list[Any], list[Any]] = ["a" * 64], ["a" * 63, "A" * 64, "a" * 65, 5, "g" * 64, "a" * 64 + "\n"]
OBJECT: tuple[list[Any], list[Any]] = [{}, None, {"a": 1}], [[], "a", 5, True]


def _objects(most: int, item: Any) -> tuple[list[Any], list[Any]]:
    return [None, [], [item] * most], [[item] * (most + 1), {}, "a", [5], [item, None]]


MEMBERS: list[tuple[Read, str, tuple[list[Any], list[Any]]]] = [
    *(
        (_target, name, (_text(64)[0][:2], _text(64)[1]))
        for name in ("series", "study", "instance", "series_instance_uid")
    ),
    (lambda body: _target({"series_instance_uid": "1", **body}), "study_instance_uid", _text(64)),
    (bodies.wish_of, "model", _text(100)),
    (bodies.wish_of, "model_version", _text(100)),
    (bodies.wish_of, "priority", _whole(-100, 100)),
    (bodies.wish_of, "force", FLAG),
    (bodies.wish_of, "parameters", OBJECT),
    (_claim, "worker_id", _name()),
    (_claim, "token", ([TOKEN], ["0" * 31, "0" * 33, "A" * 32, 5, None, TOKEN + "\n"])),
    (_claim, "models", _objects(100, {"name": "m"})),
    (_claim, "default_model", _text(100)),
    (_claim, "software", _text(200)),
    (_claim, "device", _text(200)),
    (_claim, "process", _text(64)),
    (_claim, "wait", _number(0, 3600)),
    (_claim, "prefetch", FLAG),
    (_claim, "leaving", FLAG),
    (_model, "name", (_text(100)[0][:2], [*_text(100)[1], None])),
    (_model, "version", _text(100)),
    (_model, "sha256", ([*DIGITS[0], None], DIGITS[1])),
    (_proof, "worker_id", _name()),
    (_proof, "fence", _whole(1, 2**31)),
    (bodies.heartbeat_of, "stage", _text(50)),
    (bodies.heartbeat_of, "detail", _text(200)),
    (bodies.heartbeat_of, "progress", ([*_number(0, 1)[0], None], _number(0, 1)[1])),
    (bodies.heartbeat_of, "prefetch", FLAG),
    (_older, "worker_id", ([*_name()[0], None], _name()[1])),
    (_delivery, "fingerprint", DIGITS),
    (_delivery, "artifacts", ([None, [], FILES], [[*FILES, FILE], [FILE, FILE], {}, "a", [5], [FILE, None]])),
    (_file, "name", (_text(200)[0][:2], [*_text(200)[1], None])),
    (_file, "size", _whole(0, 2**31)),
    (_file, "sha256", DIGITS),
    (_result, "predicted_class", _text(200)),
    (_result, "probabilities", OBJECT),
    (_probability, "oscc", _number(0, 1)),
    (_result, "top_patches", _objects(100, {})),
    (_error, "code", _name()),
    (_error, "message", (["", "x" * 2000, "a\nb", None], ["x" * 2001, 5])),
    (_error, "retryable", FLAG),
]


@pytest.mark.parametrize(
    ("read", "name", "value"),
    [(read, name, value) for read, name, (taken, _) in MEMBERS for value in taken],
)
def test_a_member_is_taken_up_to_its_limits(read: Read, name: str, value: Any) -> None:
    read({name: value})


@pytest.mark.parametrize(
    ("read", "name", "value"),
    [(read, name, value) for read, name, (_, refused) in MEMBERS for value in refused],
)
def test_a_member_of_another_type_or_beyond_its_limits_is_refused_by_its_name(
    read: Read, name: str, value: Any
) -> None:
    with pytest.raises(ApiError) as caught:
        read({name: value})
    assert (caught.value.status, caught.value.details) == (400, {"field": name})
    assert caught.value.message.startswith(f"{name} must be ")


KEYWORDS = {f"Tag{number}": "x" for number in range(21)}


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("series", [["x"], ["x" * 64] * 1000], [[], ["x"] * 1001, "x", {}]),
        (
            "find",
            [{"StudyDate": "x" * 1000}, dict([*KEYWORDS.items()][:20])],
            [{}, KEYWORDS, ["x"], {"a": "x"}],
        ),
    ],
)
def test_a_cohort_is_taken_up_to_its_limits(name: str, taken: list[Any], refused: list[Any]) -> None:
    for value in taken:
        _cohort({name: value})
    for value in refused:
        with pytest.raises(ApiError) as caught:
            _cohort({name: value})
        assert (caught.value.status, caught.value.details) == (400, {"field": f"cohort.{name}"})


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("2.5", 2.5), ("30", 30), ("31", 30), ("3600", 30)])
def test_a_wait_is_bounded(text: str, seconds: float) -> None:
    assert bodies.wait_of_query(Request("GET", "/", query={"wait": text})) == seconds
    assert _claim({"wait": float(text)}).wait_s == seconds


@pytest.mark.parametrize("text", ["", "-1", "3601", "nan", "inf", "soon"])
def test_a_wait_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        bodies.wait_of_query(Request("GET", "/", query={"wait": text}))
    assert (caught.value.status, caught.value.details) == (400, {"field": "wait"})


@pytest.mark.parametrize(
    ("header", "text", "field"),
    [
        ("X-Pathology-Fence", "", "X-Pathology-Fence"),
        ("X-Pathology-Fence", "-1", "X-Pathology-Fence"),
        ("X-Pathology-Fence", "1.0", "X-Pathology-Fence"),
        ("X-Pathology-Fence", "\u0661", "X-Pathology-Fence"),
        ("X-Pathology-Fence", "1" * 11, "X-Pathology-Fence"),
        ("X-Pathology-Token", TOKEN[1:], "token"),
    ],
)
def test_a_file_whose_headers_name_no_lease_is_refused(header: str, text: str, field: str) -> None:
    headers = {"x-pathology-token": TOKEN, "x-pathology-fence": "1"}
    assert bodies.proof_of_headers(headers).fence == 1
    with pytest.raises(ApiError) as caught:
        bodies.proof_of_headers({**headers, header.lower(): text})
    assert (caught.value.status, caught.value.details) == (400, {"field": field})


@pytest.mark.parametrize("body", [{}, {"result": {"a": 1}, "error": ERROR}])
@pytest.mark.parametrize("read", [bodies.outcome_of, bodies.older_outcome_of])
def test_either_a_result_or_an_error_is_wanted(read: Read, body: Mapping[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        read(body)
    assert (caught.value.status, caught.value.code) == (400, "bad_request")


def test_a_result_is_something() -> None:
    for read in (_delivery, bodies.older_outcome_of):
        with pytest.raises(ApiError) as caught:
            read({"result": {}})
        assert (caught.value.status, caught.value.details) == (400, {"field": "result"})
