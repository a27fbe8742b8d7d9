# SPDX-License-Identifier: AGPL-3.0-or-later
"""An Orthanc in memory to which everything happens: it refuses, its disk is full, slides go and come again.

Whatever happens can be put into the middle of a call of the plugin's: before or after any look or write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orthanc_plugin.application import Application
from orthanc_plugin.errors import FileRefusedError, StorageError
from orthanc_plugin.host.memory_gateway import MemoryGateway
from tests.support.sites import LABEL, MemorySite, Slide, settings_of

DELETED, NEW_SERIES = "DELETED", "NEW_SERIES"
READS = (
    "get_metadata",
    "get_attachment",
    "get_global_property",
    "list_attachments",
    "list_metadata",
    "instances",
    "series",
    "lookup_series",
    "parent_series",
)
TAKING_ROOM = ("put_metadata", "put_attachment", "set_global_property", "store_instance")
READS_AND_WRITES = (*READS, *TAKING_ROOM, "delete_attachment", "delete_metadata", "delete_series")
SAME, OTHER = b"\0" * 128 + b"DICM" + b"slide", b"\0" * 128 + b"DICM" + b"changed"
"""What the only image of a slide may hold."""
_FIRST_ATTACHMENT = settings_of().first_attachment
_MOST_LOOKS = 500
"""At series, over one call; a call that does not end is broken as well."""


class Crash(BaseException):
    """The process dies here."""


class EndlessError(Exception):
    """A call goes on looking at slides."""


@dataclass
class Strike:
    """What happens before (or `after`) the given look or write from now; 1 is the next."""

    calls: int
    act: Callable[[], None]
    after: bool


class StruckGateway(MemoryGateway):
    """A gateway on which something happens in the middle of a chosen look or write."""

    def __init__(self) -> None:
        super().__init__({"AuthenticationEnabled": True, "OverwriteInstances": True})
        self.strike: Strike | None = None
        self.writes_without_room = 0
        self.files_to_refuse = 0
        self.looks = 0
        self.unheard: list[tuple[str, str]] = []
        """Changes that the plugin has not been told of: what, and the series."""

    def heal(self) -> None:
        """Forget what was to happen and has not come to pass."""
        self.strike = None
        self.writes_without_room = self.files_to_refuse = 0
        self._failures.clear()

    def reach(self, operation: str, *arguments: Any) -> Any:
        """Go through an operation, with what happens around it."""
        if operation == "series":
            self.looks += 1
            if self.looks > _MOST_LOOKS:
                raise EndlessError
        strike = self._due()
        if strike is not None and not strike.after:
            strike.act()
        if operation in TAKING_ROOM and self.writes_without_room:
            self.writes_without_room -= 1
            if operation == "put_attachment":
                self._cut_off_new(*arguments)
            raise StorageError(f"Orthanc could not {operation}: no space left on the device.")
        if operation == "store_instance" and self.files_to_refuse:
            self.files_to_refuse -= 1
            raise FileRefusedError(f"Orthanc could not {operation}: Bad file format.")
        result = getattr(MemoryGateway, operation)(self, *arguments)
        if strike is not None and strike.after:
            strike.act()
        return result

    def _cut_off_new(self, series_id: str, number: int, content: bytes) -> None:
        """Keep the beginning of a result, as Orthanc 1.10 does; an archive is put back where it can be."""
        held = self._series.get(series_id)
        if held is not None and number >= _FIRST_ATTACHMENT:
            held.attachments.setdefault(number, content[:8])

    def _due(self) -> Strike | None:
        strike = self.strike
        if strike is None:
            return None
        strike.calls -= 1
        if strike.calls > 0:
            return None
        self.strike = None
        return strike

    # What people do to slides, with no word to the plugin.

    def holds(self, series_id: str) -> bool:
        return series_id in self._series

    def has_one_file(self, series_id: str) -> bool:
        return self.holds(series_id) and len(self._series[series_id].instances) == 1

    def numbers_at(self, series_id: str) -> set[int]:
        """Return the numbers under which anything lies at a slide."""
        return {*self._series[series_id].metadata, *self._series[series_id].attachments}

    def lose(self, slide: Slide) -> None:
        """Delete a slide with all that the plugin keeps there."""
        for instance_id in self._series.pop(slide.series).instances:
            del self._files[instance_id]
        self.unheard.append((DELETED, slide.series))

    def gain(self, slide: Slide, content: bytes) -> None:
        """Store a slide that is not there, as one image."""
        self.add_slide(slide.series_uid, slide.study_uid, image_types=())
        self.add_instance(slide.series, slide.sop_uid, content=content)
        self.unheard.append((NEW_SERIES, slide.series))

    def cut_off(self, series_id: str, number: int, *, attachment: bool) -> tuple[bytes, bytes] | None:
        """Damage a value as a disk does; return what it was and what it is."""
        held = self._series.get(series_id)
        values = {} if held is None else held.attachments if attachment else held.metadata
        if number not in values:
            return None
        whole, values[number] = values[number], values[number][:-5]
        return whole, values[number]

    def leave_label(self, series_id: str) -> None:
        """Delete the images of a slide but for a label."""
        label = self.add_instance(series_id, "9.9", image_type=LABEL)
        held = self._held(series_id)
        for instance_id in held.instances.keys() - {label}:
            del held.instances[instance_id], self._files[instance_id]
        self._touch(held)


def _reaching(operation: str) -> Callable[..., Any]:
    return lambda self, *arguments: self.reach(operation, *arguments)


for _operation in READS_AND_WRITES:
    setattr(StruckGateway, _operation, _reaching(_operation))


class StruckSite(MemorySite):
    """The site in memory, on a gateway where anything may happen."""

    def __init__(self) -> None:
        super().__init__()
        self.gateway: StruckGateway = StruckGateway()
        self.application = self._start()

    def _start(self) -> Application:
        while True:
            try:
                return super()._start()
            except StorageError:  # Orthanc would not be read; the plugin's thread tries again
                continue

    def new_slide(self) -> Slide:
        slide = super().new_slide()
        self.gateway.add_instance(slide.series, slide.sop_uid, content=SAME)
        return slide

    def is_busy(self) -> bool:
        """Tell whether another client would have to wait for the call that is on."""
        core = self.application.core
        held = (*core.store._locks.values(), core.listed._lock, core.unpublished._lock, core.copies._lock)
        return any(lock.locked() for lock in held)
