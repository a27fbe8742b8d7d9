# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is stored of a request, written by hand for speed: the same text as Python's own encoder writes."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.values import AnalysisRequest, Event, Failure, Grant, Model, Stored, replaced
from orthanc_plugin.storage.codec import decode_state, encode_state
from tests.unit.orthanc_plugin.test_lifecycle import a_request

# Surrogates have no UTF-8 and are refused at the door.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.just(-0.0))
ANY = st.one_of(TEXT, NUMBER, st.booleans(), st.none(), st.tuples(TEXT, NUMBER))
MODELS = st.builds(Model, TEXT, st.none() | TEXT, st.none() | TEXT)
FAILURES = st.builds(Failure, TEXT, TEXT, st.booleans())
GRANTS = st.builds(
    Grant,
    st.integers(0, 2**31),
    TEXT,
    TEXT,
    TEXT,
    MODELS,
    TEXT,
    NUMBER,
    confirmed=st.booleans(),
    prefetch=st.booleans(),
    tokenless=st.booleans(),
    outcome=st.none() | TEXT,
    error=st.none() | FAILURES,
)
EVENTS = st.builds(Event, NUMBER, TEXT, TEXT, TEXT)
REQUESTS = st.builds(
    lambda grants, history, error, flags, other: replace(
        a_request(), grants=grants, history=history, error=error, flags=flags, created_by=other
    ),
    st.lists(GRANTS, max_size=3).map(tuple),
    st.lists(EVENTS, max_size=3).map(tuple),
    st.none() | FAILURES,
    st.lists(TEXT, max_size=3).map(tuple),
    TEXT,
)


def plain(value: Any) -> Any:
    """Return a value as `json` takes it: objects without the members that have their default."""
    if isinstance(value, Stored):
        members = {one.name: getattr(value, one.name) for one in fields(value)}  # type: ignore[arg-type]
        defaults = {one.name: one.default for one in fields(value)}  # type: ignore[arg-type]
        return {name: plain(member) for name, member in members.items() if member != defaults[name]}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def as_python_writes(value: Any) -> str:
    return json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@given(REQUESTS)
def test_a_request_is_written_as_python_writes_it(request: AnalysisRequest) -> None:
    assert request.json_text == as_python_writes(request)


@given(ANY, ANY)
def test_members_of_another_kind_than_meant_are_written_as_python_writes_them(at: Any, detail: Any) -> None:
    event = Event(at, "claimed", "w", detail)
    assert event.json_text == as_python_writes(event)


@given(REQUESTS, TEXT)
def test_a_changed_request_is_what_dataclasses_make_of_it(request: AnalysisRequest, status: str) -> None:
    before = request.json_text
    changed = replaced(request, status=status, fence=request.fence + 1)
    assert changed == replace(request, status=status, fence=request.fence + 1)
    assert changed.json_text == as_python_writes(changed)
    assert request.json_text == before


def test_a_member_that_a_value_lacks_is_an_error() -> None:
    with pytest.raises(TypeError, match="Event has no evnt"):
        replaced(Event(1.0, "claimed", "w"), evnt="lost")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_does_not_know_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = Event(number, "claimed", "w").json_text


@given(st.lists(EVENTS.filter(lambda event: 0 <= event.at < 1e11), min_size=1, max_size=3).map(tuple))
def test_what_is_written_is_read_as_it_was(history: tuple[Event, ...]) -> None:
    request = replace(a_request(), history=history)
    state = SeriesState(request.series, 5100, 7, (request,))
    assert decode_state(request.series, encode_state(state)) == state
