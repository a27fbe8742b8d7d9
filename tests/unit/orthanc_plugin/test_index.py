# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the index keeps sums of is what counting every request gives."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from orthanc_plugin.queue import values
from orthanc_plugin.queue.catalogue import Kind
from orthanc_plugin.queue.held_leases import Lease
from orthanc_plugin.queue.index import Index
from orthanc_plugin.queue.places import END, START, place_of
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.values import AnalysisRequest, Grant, Model

SERIES = ("s1", "s2", "s3", "s4")
MODELS = ("m", "n")


def request(series: str, number: int, status: str, model: str | None) -> AnalysisRequest:
    is_begun = status not in {values.PENDING, values.CANCELLED}
    grant = Grant(1, "lab", "worker", f"{number:064x}", Model(model or "default", "1"), "f", 1.0)
    return AnalysisRequest(
        request_id=f"r{number:03}",
        series=series,
        study=f"study of {series}",
        series_instance_uid="1.2",
        study_instance_uid="1",
        model=model,
        model_version=None,
        parameters="{}",
        priority=0,
        fingerprint="f",
        created=float(number % 7),
        created_by="alice",
        updated=0.0,
        max_attempts=3,
        status=status,
        fence=1 if is_begun else 0,
        grants=(grant,) if is_begun else (),
    )


def filled(index: Index, *requests: AnalysisRequest) -> SeriesState:
    state = SeriesState(requests[0].series, 5200, requests=requests)
    index.replace(state, lambda item: Lease(item.fence, 60.0))
    return state


@pytest.fixture
def index() -> Index:
    return Index()


def after_changes(index: Index, seed: int) -> list[AnalysisRequest]:
    """Make, change, archive and forget requests by chance; return those that should be known."""
    choose = random.Random(seed)
    states: dict[str, tuple[AnalysisRequest, ...]] = {}
    archived: dict[str, tuple[AnalysisRequest, ...]] = {}
    for number in range(300):
        series = choose.choice(SERIES)
        held = [
            replace(old, status=choose.choice(values.STATUSES)) if old.grants else old
            for old in states.get(series, ())
        ]
        if choose.random() < 0.1:
            index.forget_series(series)
            states[series] = archived[series] = ()
            continue
        if len(held) > 5:
            archived[series] = (*archived.get(series, ()), held.pop(0))
        held.append(request(series, number, choose.choice(values.STATUSES), choose.choice((*MODELS, None))))
        states[series] = tuple(held)
        filled(index, *held)
        index.add_archived(archived.get(series, ()))
    return [item for kept in (states, archived) for group in kept.values() for item in group]


@pytest.mark.parametrize("seed", range(20))
def test_its_sums_are_those_of_all_requests(index: Index, seed: int) -> None:
    known = after_changes(index, seed)
    is_open = [item for item in known if item.is_open]
    assert sorted(index.snapshot(), key=lambda item: item.request_id) == sorted(
        known, key=lambda item: item.request_id
    )
    assert index.counts() == {
        status: sum(item.status == status for item in known) for status in values.STATUSES
    }
    for status in values.STATUSES:
        found = {item.request_id for item in index.with_status(status)}
        assert found == {item.request_id for item in known if item.status == status}
    assert index.open_series() == {item.series for item in is_open}
    assert index.kinds() == Counter((item.bound_model.name, item.status) for item in known)
    assert index.oldest_open() == {
        kind: min(item.created for item in is_open if (item.bound_model.name, item.status) == kind)
        for kind in {(item.bound_model.name, item.status) for item in is_open}
    }


@pytest.mark.parametrize("seed", range(20))
def test_what_it_gives_in_order_is_what_sorting_all_requests_gives(index: Index, seed: int) -> None:
    known = sorted(after_changes(index, seed), key=place_of)
    after = place_of(random.Random(seed).choice(known)) if known else START
    later = [item for item in known if place_of(item) > after]

    assert list(index.ordered(after=after)) == later
    assert list(index.ordered(after=after, holds=lambda kind: kind[1] == values.FAILED)) == [
        item for item in later if item.status == values.FAILED
    ]
    for source in (*SERIES, *(f"study of {series}" for series in SERIES), "unknown"):
        assert list(index.ordered(after=after, source=source)) == [
            item for item in later if source in {item.series, item.study}
        ]


@pytest.mark.parametrize("seed", range(20))
def test_the_newest_first_is_that_order_turned_round(index: Index, seed: int) -> None:
    known = sorted(after_changes(index, seed), key=place_of)
    before = place_of(random.Random(seed).choice(known)) if known else END
    assert list(index.ordered(newest_first=True)) == known[::-1]
    assert list(index.ordered(before=before, newest_first=True)) == [
        item for item in known[::-1] if place_of(item) < before
    ]


def test_it_looks_at_no_request_that_is_not_wanted(index: Index) -> None:
    filled(index, *(request("s1", number, values.COMPLETED, "m") for number in range(7)))
    filled(index, request("s2", 7, values.FAILED, "m"))
    asked: list[Kind] = []

    def failed(kind: Kind) -> bool:
        asked.append(kind)
        return kind[1] == values.FAILED

    next(index.ordered(holds=failed))
    assert sorted(asked) == [("m", values.COMPLETED), ("m", values.FAILED)]


@pytest.mark.parametrize("seed", range(20))
def test_how_many_have_their_turn_before_one_is_what_counting_gives(index: Index, seed: int) -> None:
    after_changes(index, seed)
    turns = list(index.pending(lambda item: item.model != "n"))
    for number, item in enumerate(turns):
        assert index.pending_before(item, lambda other: other.model != "n") == number


def test_the_archive_of_a_series_is_its_own_and_in_the_order_of_creation(index: Index) -> None:
    state = filled(index, request("s1", 6, values.COMPLETED, "m"))
    filled(index, request("s2", 3, values.COMPLETED, "m"))
    folded = (request("s1", 5, values.COMPLETED, "m"), request("s1", 4, values.FAILED, "m"))
    index.add_archived(folded)
    assert index.archived(state) == [folded[1], folded[0]]


def test_a_forgotten_series_takes_its_archive_with_it_and_no_other(index: Index) -> None:
    filled(index, request("s1", 2, values.COMPLETED, "m"))
    filled(index, request("s2", 3, values.COMPLETED, "m"))
    index.add_archived((request("s1", 1, values.COMPLETED, "m"),))
    index.forget_series("s1")
    assert [item.request_id for item in index.snapshot()] == ["r003"]
    assert index.is_gone("r001")
    assert index.is_gone("r002")
