# SPDX-License-Identifier: Apache-2.0
"""How names of classes and remarks become codes and one-line texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.dicom_results.texts import long_text, short_code

TEXTS = [
    "oscc",
    "Squamous cell carcinoma, keratinising",
    "편평세포암종",
    "정상",
    "Größe",
    "<b>x</b>",
    "\\",
    "",
    *("Ta", "TA", "ta"),
    *("type 1", "type-1", "type_1", " type 1", "type  1", "Type 1"),
]


@pytest.mark.parametrize("text", ["oscc", "few patches", "HP_1", "Ta", "TA", "T"])
def test_a_short_plain_name_is_its_own_code(text: str) -> None:
    assert short_code(text) == text


def test_different_names_have_different_codes() -> None:
    assert len({short_code(text) for text in TEXTS}) == len(TEXTS)


@given(st.text(max_size=200))
def test_a_code_always_fits_a_short_string(text: str) -> None:
    code = short_code(text)
    assert 0 < len(code) <= 16
    assert code.isascii()
    assert "\\" not in code
    assert code == code.strip()


@given(st.text(max_size=200))
def test_a_text_always_fits_a_long_string(text: str) -> None:
    line = long_text(text)
    assert len(line) <= 64
    assert "\\" not in line
    assert all(character.isprintable() or character == " " for character in line) or not line.isascii()


def test_a_text_keeps_its_script() -> None:
    assert long_text("The slide is of class 편평세포암종") == "The slide is of class 편평세포암종"
