# SPDX-License-Identifier: Apache-2.0
"""Which kinds of DICOM results a site may ask for, and under which UIDs they are stored."""

import pytest
from pydicom.uid import UID

from worker.dicom_results import instance_uid, series_uid
from worker.errors import SettingsError
from worker.result_kinds import ALL_KINDS, ResultKind, parse_kinds


@pytest.mark.parametrize("text", ["", "  ", "all", "ALL", "slide-report,roi-report,attention-map"])
def test_all_kinds_are_on_unless_some_are_named(text: str) -> None:
    assert parse_kinds(text) == ALL_KINDS


def test_none_switches_them_all_off() -> None:
    assert parse_kinds("none") == frozenset()


def test_kinds_may_be_named_in_any_order_and_case() -> None:
    kinds = parse_kinds(" Attention-Map , slide-report ")
    assert kinds == {ResultKind.ATTENTION_MAP, ResultKind.SLIDE_REPORT}


@pytest.mark.parametrize("text", ["heatmap", "slide-report,none", "all,roi-report"])
def test_an_unknown_or_contradictory_word_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(SettingsError, match="slide-report, roi-report, attention-map"):
        parse_kinds(text)


def test_uids_follow_from_request_and_kind() -> None:
    assert series_uid("r1", ResultKind.SLIDE_REPORT) == series_uid("r1", ResultKind.SLIDE_REPORT)
    uids = {
        uid(request, kind)
        for uid in (series_uid, instance_uid)
        for request in ("r1", "r2")
        for kind in ResultKind
    }
    assert len(uids) == 2 * 2 * 3
    assert all(UID(uid).is_valid and uid.startswith("2.25.") for uid in uids)
