# SPDX-License-Identifier: AGPL-3.0-or-later
"""Drives the queue through everything that can happen to it; `queue_promises` has what must hold meanwhile.

People and workers act, slides are deleted and stored again, time goes by, answers get lost, Orthanc refuses
reads and writes, its disk is full, and the process dies, before or after any look or write. Nothing here is
random: who drives it (hypothesis, or the seeded loop of `queue_steps`) chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from orthanc_plugin.errors import PluginError
from orthanc_plugin.queue.leases import found_at_start
from orthanc_plugin.service.changes import series_created, series_deleted
from tests.support.queue_actors import Actors
from tests.support.queue_checks import check, check_audit, check_dicom, check_files
from tests.support.queue_orthanc import DELETED, NEW_SERIES, OTHER, SAME, Crash, Strike
from tests.support.queue_promises import require

_HEARD = {DELETED: series_deleted, NEW_SERIES: series_created}


@contextmanager
def small_archive() -> Iterator[None]:
    """Let a series keep few finished requests, so that older ones are folded all the time."""
    with patch("orthanc_plugin.storage.archive.MAX_FINISHED", 3):
        yield


class QueueDriver(Actors):
    """All that happens: what people and workers do, time, slides and the machine."""

    def pass_time(self, seconds: float) -> None:
        self._survive(lambda: self.site.pass_time(seconds))

    def shift_clock(self, seconds: float) -> None:
        """Set the wall clock; time itself goes on as before."""
        self.site.clock.shift(seconds)

    def add_file(self, slide: int) -> None:
        """Add a file to a slide: its content is another one afterwards."""
        self._tokens += 1
        if self.gateway.holds(self.slides[slide].series):
            self.gateway.add_instance(self.slides[slide].series, f"9.9.{self._tokens}")

    def leave_label(self, slide: int) -> None:
        """Let a slide be one that cannot be analysed, until `add_file` adds an image again."""
        if self.gateway.holds(self.slides[slide].series):
            self.gateway.leave_label(self.slides[slide].series)

    def delete(self, slide: int) -> None:
        series = self.slides[slide].series
        if self.gateway.holds(series):
            self.counts["deleted"] += 1
            if series in self.site.application.core.ready.unread:  # nobody has read yet what goes with it
                self.promises.slide_gone(series)
            self.promises.slide_lost(series, self.site.clock.monotonic())
            self.gateway.lose(self.slides[slide])

    def store(self, slide: int, *, changed: bool) -> None:
        if not self.gateway.holds(self.slides[slide].series):
            self.counts["stored again"] += 1
            self.gateway.gain(self.slides[slide], OTHER if changed else SAME)

    def overwrite(self, slide: int, *, changed: bool) -> None:
        """Store the only image of a slide again, as Orthanc does: in one moment, with two changes."""
        self.delete(slide)
        self.store(slide, changed=changed)

    def damage(self, slide: int, *, archive: bool) -> None:
        """Let the requests that Orthanc holds of a slide lose their last bytes."""
        series, settings = self.slides[slide].series, self.site.settings
        number = settings.archive_number if archive else settings.metadata_number
        cut = self.gateway.cut_off(series, number, attachment=archive)
        if cut is not None:
            self.counts["damaged"] += 1
            if series in self.site.application.core.ready.unread:  # nobody has read yet what it was
                self.promises.slide_gone(series)
            self.promises.value_damaged(self.site, series, *cut, archive)

    def hear(self, *, latest: bool = False) -> None:
        """Let the plugin hear of the first change (or the latest) that Orthanc has to tell."""
        if self.gateway.unheard:
            what, series = self.gateway.unheard.pop(-1 if latest else 0)
            self._survive(lambda: self._hear(what, series))

    def _hear(self, what: str, series: str) -> None:
        if what == NEW_SERIES:
            self.promises.return_heard_of(self.site, series)
        try:
            _HEARD[what](self.site.application.core, series)
        except PluginError:
            return  # its thread writes that down, and goes on
        self.promises.all_heard_of(self.site, series)

    def refuse(self, operation: str, *, after: bool) -> None:
        """Let Orthanc fail the next call of an operation."""
        self.gateway.fail_next(operation, after=after)

    def leave_in_doubt(self) -> None:
        """Let the next state that is written lie there, and nobody be able to tell."""
        self.site.leave_in_doubt()

    def refuse_file(self) -> None:
        """Let Orthanc take the next DICOM result for no DICOM file."""
        self.gateway.files_to_refuse = 1

    def fill_disk(self, writes: int) -> None:
        """Let there be no room for the next writes; what is deleted is deleted all the same."""
        self.gateway.writes_without_room = writes

    def die(self, calls: int, *, after: bool) -> None:
        """Let the process die in the middle of what comes."""

        def crash() -> None:
            raise Crash

        self.interrupt(calls, crash, after=after)

    def interrupt(self, calls: int, act: Callable[[], None], *, after: bool) -> None:
        """Let something happen in the middle of what comes that asks nothing of the plugin."""
        self.gateway.strike = Strike(calls, act, after)

    def meanwhile(self, calls: int, act: Callable[[], None], *, after: bool) -> None:
        """Let another client, or another thread, act in the middle of what comes; it waits for nobody."""

        def act_when_free() -> None:
            if self.site.is_busy():
                self.interrupt(1, act_when_free, after=after)
            else:
                act()

        self.interrupt(calls, act_when_free, after=after)

    def restart(self) -> None:
        self._start_again(kill=False)

    # The checker

    def check(self) -> None:
        """Compare what memory says with what was promised."""
        check(self.site, self.promises)

    def settle(self) -> None:
        """Stop all disturbances, let every lease run out, start once more, and check what is left."""
        self.gateway.heal()
        while self.gateway.unheard:
            self.hear()
        for _ in range(3):
            self.pass_time(30)
        slides = {slide.series for slide in self.slides}
        for series in slides - self.site.series_ids():
            self.promises.slide_gone(series)
        for series in sorted(slides & self.site.series_ids()):
            self.promises.all_heard_of(self.site, series)
            # What a failed write has left in doubt is read again before it is used.
            self.site.application.core.store.load(series)
        self.check()
        check_audit(self.site, self.promises)
        check_dicom(self.site, self.promises, slides)
        memory = self._states()
        self._start_again(kill=True)
        differing = {item for item, _ in memory.items() ^ self._states().items()}
        require(differing <= self.promises.excused, "lost", "memory and metadata differ")
        self.pass_time(30)
        self.pass_time(30)
        self.check()
        check_dicom(self.site, self.promises, slides)
        check_files(self.site, self.promises, slides & self.site.series_ids())
        self._require_gone_are_gone()

    def _states(self) -> dict[str, tuple[str, int, int]]:
        """Return what a restart must find; it takes the attempt under a lease for one, heard of or not."""
        requests = map(found_at_start, self.site.application.core.index.snapshot())
        return {item.request_id: (item.status, item.fence, item.attempts) for item in requests}

    def _require_gone_are_gone(self) -> None:
        for request_id, series in self.promises.accepted.items():
            if not self.gateway.holds(series):
                answer = self.site.call("GET", f"/pathology/requests/{request_id}/")
                require(answer.status == 404, "other", "a request of a deleted slide is still there")
