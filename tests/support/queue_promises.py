# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the queue has answered and what therefore has to hold; `queue_checks` compares it with what there is.

A slide that is deleted takes its requests along, with everything that Orthanc kept of them. Where it is
stored again within seconds the plugin writes them anew from memory; until it has heard of both, nothing is
required of them. What was not written again when the process dies is lost; what was deleted for good is gone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from orthanc_plugin.storage.numbering import named_numbers
from tests.support.queue_orthanc import StruckSite

_CARRIED_OVER_S = 10.0
"""A slide that comes back later than this after its deletion is a new one."""


class BrokenPromiseError(AssertionError):
    """What was answered does not hold.

    `kind` is ``lost`` (an accepted request is gone), ``doubled`` (one request, two grants or results),
    ``superseded`` (a result under a lease that had been replaced), ``orphans`` (files or DICOM series of no
    completed request) or ``other``.
    """

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def require(holds: bool, kind: str, sentence: str) -> None:
    """Raise `BrokenPromiseError` unless `holds`."""
    if not holds:
        raise BrokenPromiseError(kind, sentence)


@dataclass(frozen=True)
class Damage:
    """A value of a series that was cut off, and the files that its completed requests named."""

    series: str
    is_archive: bool
    content: bytes
    requests: frozenset[str]
    files: Mapping[str, set[int]]

    def lies_in(self, site: StruckSite, *, set_aside: bool) -> bool:
        """Tell whether the bytes are where they were, or where damaged values are kept."""
        settings = site.settings
        number = settings.archive_number if self.is_archive else settings.metadata_number
        at = settings.damaged_number if set_aside else number
        kept = held_value(site, self.series, at, self.is_archive)
        return self.content in kept if set_aside else self.content == kept


@dataclass
class Promises:
    """What was answered, and what became of the slides.

    Attributes
    ----------
    accepted
        The series of every request that was accepted.
    results
        Fence and body of every result that was taken.
    asked_back
        Requests whose results somebody wanted withdrawn; an answer may have been lost.
    published
        DICOM series of the requests that were completed when they were last seen: they outlive their slide.
    shaken
        Series that were deleted and of whose return the plugin need not know yet, with the time of it.
    replaced
        Series that were ever deleted: their results may have lost their files.
    copied
        Requests that were accepted when their slide had one file: a start knows them, while they are open,
        also where it was stored again just before.
    open
        Requests that were open when they were last seen.
    excused
        Requests that went with their slide.
    torn
        Series, and requests, that had been written again when the process died, without their files; or of
        which a value was damaged.
    damaged
        Values that were cut off, and of which the plugin knows the content as long as it lives.
    set_aside
        Those that it has found.
    cut_short
        Requests at which the process died between a write and its audit line.
    """

    accepted: dict[str, str] = field(default_factory=dict)
    grants: dict[tuple[str, int], str] = field(default_factory=dict)
    results: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked_back: set[str] = field(default_factory=set)
    published: dict[str, set[str]] = field(default_factory=dict)
    shaken: dict[str, float] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    copied: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    excused: set[str] = field(default_factory=set)
    torn: set[str] = field(default_factory=set)
    damaged: list[Damage] = field(default_factory=list)
    set_aside: list[Damage] = field(default_factory=list)
    cut_short: set[str] = field(default_factory=set)

    def note_grant(self, request_id: str, fence: int, token: str) -> None:
        known = self.grants.setdefault((request_id, fence), token)
        require(known == token, "doubled", "two workers hold one fence")
        delivered = self.results.get(request_id, (fence, ""))[0]
        require(delivered == fence, "doubled", "a request with a result was given out again")

    def note_result(self, request_id: str, fence: int, body: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        known = self.results.setdefault(request_id, (fence, digest))
        require(known == (fence, digest), "doubled", "two results were accepted for one request")
        fences = [granted for granted_id, granted in self.grants if granted_id == request_id]
        require(
            fence == max(fences, default=fence), "superseded", "a result was accepted under a replaced lease"
        )

    def slide_lost(self, series: str, now: float) -> None:
        self.shaken.setdefault(series, now)
        self.replaced.add(series)
        self.torn.discard(series)
        self.damaged = [damage for damage in self.damaged if damage.series != series]
        self.set_aside = [damage for damage in self.set_aside if damage.series != series]

    def value_damaged(
        self, site: StruckSite, series: str, whole: bytes, content: bytes, is_archive: bool
    ) -> None:
        requests = [
            item
            for item in site.application.core.index.ordered(source=series)
            if _names(whole, item.request_id)
        ]
        held = site.gateway.numbers_at(series)
        files = {
            item.request_id: held & named_numbers((item,)) for item in requests if item.status == "completed"
        }
        ids = frozenset(item.request_id for item in requests)
        self.torn.add(series)
        # What was damaged and not yet looked at is what is cut off further.
        self.set_aside = [damage for damage in self.set_aside if damage.content != whole]
        self.damaged = [damage for damage in self.damaged if damage.content != whole]
        self.damaged.append(Damage(series, is_archive, content, ids, files))

    def return_heard_of(self, site: StruckSite, series: str) -> None:
        """Expect nothing of the former requests of a slide of whose return the plugin hears too late."""
        if site.clock.monotonic() - self.shaken.get(series, site.clock.monotonic()) > _CARRIED_OVER_S:
            self._excuse(self.of_series(series))

    def all_heard_of(self, site: StruckSite, series: str) -> None:
        """Require again what is promised of a slide that is there and of which the plugin has heard all.

        What it could not write again then is seen to later.
        """
        is_unwritten = series in site.application.core.replaced_unwritten
        is_unheard = any(heard == series for _, heard in site.gateway.unheard)
        if site.gateway.holds(series) and not is_unheard and not is_unwritten:
            if series in self.shaken and not site.gateway.has_one_file(series):
                self.copied -= self.of_series(
                    series
                )  # it came back with another file: nothing takes it along
            self.shaken.pop(series, None)

    def process_died(self, site: StruckSite) -> None:
        """Expect of slides that were deleted, or have a damaged value, what is written and nothing else."""
        now, shaken = site.clock.monotonic(), tuple(self.shaken)
        self.shaken.clear()
        for series in shaken:
            written = _written(site, series)
            known = {item.request_id for item in site.application.core.index.ordered(source=series)}
            gone = {item for item in known | self.of_series(series) if not _names(written, item)}
            copied = set() if written else self._copied(site, series, known)
            self._excuse(gone - copied)
            self._forget_leases(copied | self._never_answered(site))
            self._tear(site, series)
            if copied:
                self.shaken[series] = now
        for damage in self.damaged:
            if damage.lies_in(site, set_aside=False):
                self.set_aside.append(damage)
                self._excuse(damage.requests)
                self._tear(site, damage.series)
        self.damaged.clear()

    def _never_answered(self, site: StruckSite) -> set[str]:
        """Return the requests of which nobody heard that they were accepted, and which are not there now."""
        granted = {request_id for request_id, _ in self.grants}
        return (
            granted
            - self.accepted.keys()
            - {item.request_id for item in site.application.core.index.snapshot()}
        )

    def _copied(self, site: StruckSite, series: str, known: set[str]) -> set[str]:
        """Return the open requests of a slide that was stored again a moment before the process died."""
        return (
            self.of_series(series) & self.copied & self.open & known if site.gateway.holds(series) else set()
        )

    def _tear(self, site: StruckSite, series: str) -> None:
        self.torn.add(series)
        for item in site.application.core.index.ordered(source=series):
            self.torn.add(item.request_id)
            self.published.setdefault(item.request_id, {output.series for output in item.outputs})

    def slide_gone(self, series: str) -> None:
        """Expect nothing any more of a slide that was deleted for good."""
        self._excuse(self.of_series(series))
        self.shaken.pop(series, None)

    def _excuse(self, requests: AbstractSet[str]) -> None:
        self.excused |= requests
        self._forget_leases(requests)

    def _forget_leases(self, requests: AbstractSet[str]) -> None:
        """Take no lease for known: a copy has none, nor has what was in a damaged value."""
        self.results = {item: result for item, result in self.results.items() if item not in requests}
        self.grants = {key: token for key, token in self.grants.items() if key[0] not in requests}

    def of_series(self, series: str) -> set[str]:
        return {request_id for request_id, held in self.accepted.items() if held == series}

    def expected(self) -> set[str]:
        """Return the requests that have to be known now."""
        expected = {item for item, series in self.accepted.items() if series not in self.shaken}
        return expected - self.excused


def held_value(site: StruckSite, series: str, number: int, is_attachment: bool) -> bytes:
    """Return what Orthanc holds, or nothing; nothing happens meanwhile."""
    held = site.gateway._series.get(series)
    if held is None:
        return b""
    return (held.attachments if is_attachment else held.metadata).get(number, b"")


def _written(site: StruckSite, series: str) -> bytes:
    """Return the state of a series and its archive, which counts for nothing without a state."""
    state = held_value(site, series, site.settings.metadata_number, False)
    return state and state + held_value(site, series, site.settings.archive_number, True)


def _names(value: bytes, request_id: str) -> bool:
    return f'"request_id":"{request_id}"'.encode() in value
