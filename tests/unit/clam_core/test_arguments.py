# SPDX-License-Identifier: Apache-2.0
"""What a person types for a spacing."""

from __future__ import annotations

import argparse

import pytest

from clam_core.arguments import micrometres


def test_a_spacing_is_a_number_of_micrometres() -> None:
    assert micrometres("0.25") == 0.25


def test_a_decimal_comma_is_answered_with_the_point() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"write it with a point, 0\.25"):
        micrometres("0,25")


@pytest.mark.parametrize("text", ["0", "-0.5", "nan", "inf"])
def test_what_no_pixel_can_measure_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="more than 0"):
        micrometres(text)


def test_a_word_is_refused_without_a_wrong_hint() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"micrometres$"):
        micrometres("fine")
