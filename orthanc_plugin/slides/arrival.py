# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which rules a slide that has arrived meets: pure, on tags as Orthanc names them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

REMOTE_AET = "RemoteAET"
STAIN = "Stain"

_USING_SUBSTANCE = frozenset({"424361007", "G-C350"})
"""Concept "Using substance" of a specimen's preparation, in SNOMED CT and in SRT (DICOM PS3.16, TID 8003)."""
_PREPARATION = (
    "SpecimenDescriptionSequence",
    "SpecimenPreparationSequence",
    "SpecimenPreparationStepContentItemSequence",
)


@dataclass(frozen=True)
class ArrivalRule:
    """What is submitted by itself.

    Attributes
    ----------
    name
        How the history names the rule.
    match
        Names of tags (or `STAIN`, or `REMOTE_AET`), each with the patterns of which one must fit. ``*`` and
        ``?`` stand for any characters; upper and lower case are the same. All names must fit.
    model, model_version, priority
        What is submitted.
    """

    name: str
    match: tuple[tuple[str, tuple[str, ...]], ...]
    model: str
    model_version: str | None = None
    priority: int = 0


@dataclass(frozen=True)
class Arrival:
    """What is known of a slide that has arrived: its tags, and the AE title that sent it (``""``: none)."""

    tags: Mapping[str, Any]
    remote_aet: str = ""


def matches(rule: ArrivalRule, arrival: Arrival) -> bool:
    """Tell whether a slide meets a rule."""
    return all(
        any(_fits(text, pattern) for text in texts_of(arrival, name) for pattern in patterns)
        for name, patterns in rule.match
    )


def _fits(text: str, pattern: str) -> bool:
    return fnmatchcase(text.casefold(), pattern.casefold().replace("[", "[[]"))


def texts_of(arrival: Arrival, name: str) -> tuple[str, ...]:
    """Return the values that a name of a rule stands for; each value of a tag with several."""
    if name == REMOTE_AET:
        return (arrival.remote_aet,) if arrival.remote_aet else ()
    if name == STAIN:
        return tuple(_stains(arrival.tags))
    value = arrival.tags.get(name)
    return tuple(part.strip() for part in value.split("\\")) if isinstance(value, str) else ()


def _stains(tags: Mapping[str, Any]) -> Iterator[str]:
    """Yield codes and names of the substances that the specimen was prepared with."""
    for item in _items(tags, _PREPARATION):
        concepts = _items(item, ("ConceptNameCodeSequence",))
        if any(concept.get("CodeValue") in _USING_SUBSTANCE for concept in concepts):
            for code in _items(item, ("ConceptCodeSequence",)):
                yield from (str(code[name]) for name in ("CodeMeaning", "CodeValue") if name in code)
            if isinstance(item.get("TextValue"), str):
                yield item["TextValue"]


def _items(value: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    sequence = value.get(path[0])
    for item in sequence if isinstance(sequence, list) else ():
        if not isinstance(item, Mapping):
            continue
        if len(path) == 1:
            yield item
        else:
            yield from _items(item, path[1:])
