# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which slides a rule is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from orthanc_plugin.slides.arrival import Arrival, ArrivalRule, matches

STAINED: dict[str, Any] = {
    "SpecimenDescriptionSequence": [
        {
            "SpecimenPreparationSequence": [
                {
                    "SpecimenPreparationStepContentItemSequence": [
                        {
                            "ConceptNameCodeSequence": [{"CodeValue": "111701"}],
                            "ConceptCodeSequence": [{"CodeMeaning": "Staining", "CodeValue": "127265"}],
                        },
                        {
                            "ConceptNameCodeSequence": [{"CodeValue": "424361007"}],
                            "ConceptCodeSequence": [
                                {"CodeMeaning": "hematoxylin stain", "CodeValue": "12710003"}
                            ],
                        },
                        {"ConceptNameCodeSequence": [{"CodeValue": "G-C350"}], "TextValue": "H & E"},
                    ]
                }
            ]
        }
    ]
}


def met(match: Mapping[str, tuple[str, ...]], tags: dict[str, Any], remote_aet: str = "") -> bool:
    return matches(ArrivalRule("r", tuple(match.items()), "m"), Arrival(tags, remote_aet))


@pytest.mark.parametrize(
    ("patterns", "value", "expected"),
    [
        (("MOUTH",), "MOUTH", True),
        (("mouth",), "Mouth ", True),
        (("TONGUE", "MOUTH"), "MOUTH", True),
        (("MOU*",), "MOUTH", True),
        (("MOU",), "MOUTH", False),
        (("MOUTH",), "SKIN\\MOUTH", True),
        (("[MO]*",), "MOUTH", False),
        (("*",), [], False),
    ],
)
def test_a_tag_is_compared_with_patterns(patterns: tuple[str, ...], value: Any, expected: bool) -> None:
    assert met({"BodyPartExamined": patterns}, {"BodyPartExamined": value}) is expected


def test_a_missing_tag_meets_nothing() -> None:
    assert not met({"BodyPartExamined": ("*",)}, {})


def test_all_names_of_a_rule_must_fit() -> None:
    match = {"BodyPartExamined": ("MOUTH",), "RemoteAET": ("SCANNER?",)}
    assert met(match, {"BodyPartExamined": "MOUTH"}, "SCANNER1")
    assert not met(match, {"BodyPartExamined": "MOUTH"}, "OTHER")
    assert not met(match, {"BodyPartExamined": "MOUTH"})


def test_a_slide_that_nobody_sent_has_no_sender() -> None:
    assert not met({"RemoteAET": ("*",)}, {})


@pytest.mark.parametrize("pattern", ["hematoxylin*", "12710003", "h & e"])
def test_a_stain_is_a_substance_of_the_preparation(pattern: str) -> None:
    assert met({"Stain": (pattern,)}, STAINED)


@pytest.mark.parametrize("pattern", ["Staining", "127265"])
def test_another_item_of_the_preparation_is_no_stain(pattern: str) -> None:
    assert not met({"Stain": (pattern,)}, STAINED)


@pytest.mark.parametrize("tags", [{"SpecimenDescriptionSequence": "x"}, {"SpecimenDescriptionSequence": [1]}])
def test_odd_tags_meet_nothing(tags: dict[str, Any]) -> None:
    assert not met({"Stain": ("*",)}, tags)
