# SPDX-License-Identifier: Apache-2.0
"""Coded concepts: standard ones by name, and a private scheme for what only this software knows."""

from __future__ import annotations

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from .texts import long_text, short_code

SCHEME = "99ORTHANCPATH"
"""Private coding scheme designator: at most 16 characters, begins with 99 (DICOM PS3.16, 8.2)."""

HISTOPATHOLOGY_TEST = CodedConcept.from_code(codes.SCT.HistopathologyTest)
PERCENTILE = CodedConcept.from_code(codes.DCM.PercentileRankingOfMeasurement)
PERCENT = CodedConcept.from_code(codes.UCUM.Percent)
NO_UNITS = CodedConcept.from_code(codes.UCUM.NoUnits)
ENGLISH = CodedConcept("en", "RFC5646", "English")


def private(value: str, meaning: str) -> CodedConcept:
    """Return a concept of the private scheme; both texts are cut to what DICOM allows."""
    return CodedConcept(short_code(value), SCHEME, long_text(meaning) or "unnamed")


SLIDE_CLASSIFICATION = private("SLIDE-CLASS", "Classification of the whole slide by an algorithm")
PREDICTED_CLASS = private("PREDICTED-CLASS", "Class that the algorithm predicts for the slide")
QUALITY = private("QUALITY", "How far the prediction can be relied on")
QUALITY_FLAG = private("QUALITY-FLAG", "Remark on the quality of the prediction")
INTENDED_USE = private("USE", "Use that the algorithm is meant for")
ATTENTION_REGION = private("ATTENTION", "Region that weighed most in the prediction")
ATTENTION = private("ATTENTION-SCORE", "Attention weight of the region, normalised over the slide")
PATCH_PROBABILITY = private("PATCH-PROB", "Probability of the predicted class in the region taken alone")
ATTENTION_PERCENTILE = private("ATTENTION-PCT", "Percentile of the attention within the slide")
PREDECESSOR = private("PREDECESSOR", "Result of an earlier run of the same analysis")


def own_word(word: str, meaning: str) -> CodedConcept:
    """Return a word of this software's own, such as ``few_patches``, as a value: its codes are upper case."""
    return private(word.upper().replace("_", "-"), meaning)


def class_concept(name: str) -> CodedConcept:
    """Return a class of the model as a value."""
    return private(name, f"The slide is of class {name}")


def probability_concept(name: str) -> CodedConcept:
    """Return the probability of a class as the name of a measurement."""
    return private(f"P-{name}", f"Probability that the slide is of class {name}")


def scheme_identification() -> CodingSchemeIdentificationItem:
    """Return what a reader needs to know about the private scheme."""
    return CodingSchemeIdentificationItem(
        designator=SCHEME,
        name="Concepts of whole-slide analysis inside Orthanc",
        responsible_organization="orthanc-pathology",
    )
