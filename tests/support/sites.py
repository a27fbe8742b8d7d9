# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plugin's HTTP contract on two sites: in process on the gateway in memory, and in a real Orthanc."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from pydicom.uid import generate_uid

from orthanc_plugin.application import Application
from orthanc_plugin.host.memory_gateway import MemoryGateway
from orthanc_plugin.http import Request
from orthanc_plugin.queue.values import Event
from orthanc_plugin.service.changes import series_created, series_deleted, series_stable
from orthanc_plugin.service.clockwork import finish_leftovers, tick
from orthanc_plugin.service.startup import load_all, load_open, load_unread
from orthanc_plugin.settings import Settings, read_settings
from orthanc_plugin.slides.dicom_identity import orthanc_id
from tests.support.fake_clock import FakeClock
from tests.support.orthanc_server import OrthancServer
from tests.support.tiny_dicom import tiny_slide

PERSON = "admin"
WORKER = "worker"
MONITOR = "monitor"
LABEL = ("ORIGINAL", "PRIMARY", "LABEL", "NONE")
SECTION: dict[str, Any] = {
    "Workers": [WORKER],
    "Monitors": [MONITOR],
    "LeaseSeconds": 2,
    "HeartbeatSeconds": 0.5,
    "ConfirmSeconds": 1,
    "RetrySeconds": 0.2,
    "AllowTokenless": True,
    "Models": None,
}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@dataclass(frozen=True)
class Slide:
    """A slide that lies in Orthanc, all of it arrived."""

    series: str
    series_uid: str
    study_uid: str
    sop_uid: str


class Site(Protocol):
    """Where the contract is tried."""

    def call(
        self,
        method: str,
        path: str,
        *,
        user: str = PERSON,
        body: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; `body` as JSON, `data` as it is."""

    def new_slide(self) -> Slide:
        """Return a slide that no test has used."""

    def overwrite(self, slide: Slide) -> None:
        """Store the slide's only instance again with another content, and let the plugin hear of it."""

    def store_file(self, slide: Slide, sop_uid: str, note: str) -> None:
        """Store a file of the slide, anew where it has it; `note` makes its content."""

    def delete(self, slide: Slide) -> None:
        """Delete a slide, and let the plugin hear of it."""

    def leave_label(self, slide: Slide) -> None:
        """Delete a slide's pyramid; its label stays, and so does the series."""

    def series_ids(self) -> set[str]:
        """Return the Orthanc ids of all series."""

    def pass_time(self, seconds: float) -> None:
        """Let time go by."""

    def restart(self, *, kill: bool = False) -> None:
        """Stop the plugin's process and start it again."""


class RecordingAudit:
    """Keeps the audit's events."""

    def __init__(self) -> None:
        self.events: list[tuple[Event, str]] = []
        self.users: list[str] = []

    def write(self, *events: Event, request_id: str = "", series: str = "", user: str = "") -> None:
        self.events += [(event, request_id) for event in events]
        self.users += [user for _ in events]


def settings_of(section: Mapping[str, Any] | None = None) -> Settings:
    """Return settings as read from a configuration."""
    given = {key: value for key, value in {**SECTION, **(section or {})}.items() if value is not None}
    return read_settings({"AuthenticationEnabled": True, "Pathology": given})


class MemorySite:
    """The router in process, on the gateway in memory, under a clock that stands still.

    Parameters
    ----------
    section
        Settings of the plugin besides `SECTION`.
    orthanc
        Orthanc's own.
    """

    def __init__(
        self, section: Mapping[str, Any] | None = None, *, orthanc: Mapping[str, Any] | None = None
    ) -> None:
        self.gateway = MemoryGateway({"AuthenticationEnabled": True, **(orthanc or {})})
        self.clock = FakeClock()
        self.audit = RecordingAudit()
        self.warnings: list[str] = []
        self.settings = settings_of(section)
        self.application = self._start()
        self._slides = 0

    def _start(self) -> Application:
        application = Application(self.settings, self.gateway, self.clock, self.audit, self.warnings.append)
        load_open(application.core)
        load_all(application.core)
        return application

    def call(
        self,
        method: str,
        path: str,
        *,
        user: str = PERSON,
        body: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        content = data or b""
        if body is not None:
            content = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        given = dict(parse_qsl(urlencode(query or {})))
        response = self.application.handle(Request(method, path, given, sent, content, user))
        answered = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, {**answered, "content-type": response.content_type}, response.body)

    def new_slide(self) -> Slide:
        self._slides += 1
        self.clock.advance(0.001)
        series_uid, study_uid = f"1.2.3.{self._slides}", "1.2.3"
        series = self.gateway.add_slide(series_uid, study_uid)
        return Slide(series, series_uid, study_uid, f"{series_uid}.1")

    def overwrite(self, slide: Slide) -> None:
        self.gateway.delete_series(slide.series)
        self.gateway.add_slide(slide.series_uid, slide.study_uid)
        self.gateway.add_instance(slide.series, slide.sop_uid, content=b"\0" * 128 + b"DICM" + b"changed")
        series_deleted(self.application.core, slide.series)
        series_created(self.application.core, slide.series)

    def store_file(self, slide: Slide, sop_uid: str, note: str) -> None:
        self.gateway.add_instance(slide.series, sop_uid, content=b"\0" * 128 + b"DICM" + note.encode())
        series_stable(self.application.core, slide.series)

    def delete(self, slide: Slide) -> None:
        self.gateway.delete_series(slide.series)
        series_deleted(self.application.core, slide.series)

    def leave_in_doubt(self) -> None:
        """Let the next state that is written lie there, and nobody be able to tell."""
        self.gateway.fail_next("put_metadata", after=True)
        self.gateway.fail_next("get_metadata")

    def leave_label(self, slide: Slide) -> None:
        self.gateway.add_instance(slide.series, f"{slide.sop_uid}.9", image_type=LABEL)
        self.gateway.delete_instance(orthanc_id(slide.series, slide.sop_uid))

    def series_ids(self) -> set[str]:
        return set(self.gateway.list_series())

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        tick(self.application.core)
        load_unread(self.application.core)
        finish_leftovers(self.application.core)

    def restart(self, *, kill: bool = False) -> None:
        if not kill:
            self.application.core.stop()
        self.application = self._start()


@contextmanager
def running(slides: int, environment: Mapping[str, str] | None = None) -> Iterator[ServerSite]:
    """Run the plugin in a real Orthanc, as `ServerSite` says."""
    site = ServerSite(slides, environment)
    try:
        site.start()
        yield site
    finally:
        site.stop()


class ServerSite:
    """The plugin in a real Orthanc.

    Parameters
    ----------
    slides
        How many slides are stored at the start, so that they are stable when a test uses them.
    environment
        Further environment variables of Orthanc.
    """

    def __init__(self, slides: int, environment: Mapping[str, str] | None = None) -> None:
        self.passwords = {PERSON: "", WORKER: "", MONITOR: "watching-only"}
        self.server = OrthancServer(
            overrides={
                "RegisteredUsers": {MONITOR: self.passwords[MONITOR]},
                "Pathology": SECTION,
                "OverwriteInstances": True,
            },
            environment=environment,
        )
        self.passwords[PERSON] = self.server.person[1]
        self.passwords[WORKER] = self.server.worker[1]
        self._wanted = slides
        self._slides: list[Slide] = []

    def start(self) -> None:
        self.server.start()
        self._wait_ready()
        self._slides = [self._store() for _ in range(self._wanted)]
        # They become stable in the order of their arrival.
        self._wait_stable(self._slides[-1:])

    def stop(self) -> None:
        self.server.__exit__(None, None, None)

    def _store(self) -> Slide:
        series_uid, study_uid, sop_uid = generate_uid(), generate_uid(), generate_uid()
        answer = self.server.post("/instances", data=tiny_slide(series_uid, study_uid, sop_uid=sop_uid))
        answer.raise_for_status()
        return Slide(answer.json()["ParentSeries"], series_uid, study_uid, sop_uid)

    def _wait_stable(self, slides: list[Slide]) -> None:
        deadline = time.monotonic() + 60
        while not all(self.server.get(f"/series/{slide.series}").json()["IsStable"] for slide in slides):
            assert time.monotonic() < deadline, self.server.log()[-4000:]
            time.sleep(0.05)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 20
        while not self.call("GET", "/pathology/health").json["complete"]:
            assert time.monotonic() < deadline, self.server.log()[-4000:]
            time.sleep(0.05)

    def call(
        self,
        method: str,
        path: str,
        *,
        user: str = PERSON,
        body: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        response = self.server.request(
            method, path, auth=(user, self.passwords[user]), data=data, headers=sent, params=query
        )
        answered = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, answered, response.content)

    def new_slide(self) -> Slide:
        assert self._slides, "store more slides at the start of this site"
        return self._slides.pop()

    def overwrite(self, slide: Slide) -> None:
        changed = tiny_slide(slide.series_uid, slide.study_uid, sop_uid=slide.sop_uid, note="changed")
        self.server.post("/instances", data=changed).raise_for_status()
        time.sleep(0.3)

    def store_file(self, slide: Slide, sop_uid: str, note: str) -> None:
        content = tiny_slide(slide.series_uid, slide.study_uid, sop_uid=sop_uid, note=note)
        self.server.post("/instances", data=content).raise_for_status()
        self._wait_stable([slide])
        time.sleep(0.3)

    def delete(self, slide: Slide) -> None:
        self.server.request("DELETE", f"/series/{slide.series}").raise_for_status()
        time.sleep(0.3)

    def leave_label(self, slide: Slide) -> None:
        instances = self.server.get(f"/series/{slide.series}").json()["Instances"]
        label = tiny_slide(slide.series_uid, slide.study_uid, kind="LABEL")
        self.server.post("/instances", data=label).raise_for_status()
        for instance in instances:
            self.server.request("DELETE", f"/instances/{instance}").raise_for_status()
        self._wait_stable([slide])

    def series_ids(self) -> set[str]:
        return set(self.server.get("/series").json())

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds + 0.7)

    def restart(self, *, kill: bool = False) -> None:
        if kill:
            self.server.kill()
        else:
            self.server.restart()
        self._wait_ready()
