# SPDX-License-Identifier: Apache-2.0
"""A loopback server with the ranges route and what else reading a slide needs; it can misbehave.

It stands in for Orthanc where a fault must happen at a chosen moment; the same reading tests run against the
real server too.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pydicom

from tests.support.loopback_server import LoopbackServer
from tests.support.scripted_server import Page
from worker.api.contract import Claim, InstanceRef, Lease

_RANGES = re.compile(r"/pathology/instances/([\w-]+)/ranges")
_FRAMES = re.compile(r"/pathology/instances/[\w-]+/frames")
_NATIVE = re.compile(r"/instances/([\w-]+)/(file|simplified-tags|attachments/dicom/(?:info|data))")


@dataclass
class StoredFile:
    """One instance, as Orthanc keeps it."""

    data: bytes
    uuid: str
    sop_instance_uid: str
    image_type: tuple[str, ...]
    tags: dict[str, Any]


@dataclass
class Behaviour:
    """What the server does wrong, and what it saw."""

    drop_next: int = 0
    """Connections to close without an answer."""
    cut_next: int = 0
    """Answers to cut off in the middle."""
    busy_next: int = 0
    """Calls to answer with 503."""
    ranges_route: bool = True
    """Whether the plugin has the route."""
    frames: list[bytes] = field(default_factory=list)
    """Answers of the route that says where frames lie, status 200, one after the other."""
    http_range: bool = False
    """Whether it takes HTTP Range on an attachment's data, as Orthanc does from 1.12.5 on."""
    status: int = 0
    """Answer everything with this status, unless 0."""
    pages: list[Page] = field(default_factory=list)
    """What answers the next calls in the server's place."""
    paths: list[str] = field(default_factory=list)
    """Every path that was asked for."""
    ranges: list[list[list[int]]] = field(default_factory=list)
    """The ranges of every call of the route."""


class RangesServer(LoopbackServer):
    """Serves DICOM files on loopback."""

    def __init__(self) -> None:
        self.files: dict[str, StoredFile] = {}
        self.behaviour = Behaviour()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                server.serve(self)

            do_GET = do_POST  # noqa: N815 - the name that http.server calls

            def log_message(self, *_message: Any) -> None:
                pass

        super().__init__(Handler)

    def store(self, path: Path) -> str:
        """Store a file; return its id."""
        data = path.read_bytes()
        name = hashlib.sha1(str(path).encode()).hexdigest()
        header = pydicom.dcmread(path, stop_before_pixels=True)
        self.files[name] = StoredFile(
            data,
            hashlib.sha1(data).hexdigest(),
            str(header.SOPInstanceUID),
            tuple(header.get("ImageType", [])),
            {
                key: str(header.get(key, ""))
                for key in ("PatientID", "SeriesInstanceUID", "ContainerIdentifier")
            },
        )
        return name

    def overwrite(self, name: str, data: bytes) -> None:
        """Put another file in the place of an instance."""
        self.files[name].data = data
        self.files[name].uuid = hashlib.sha1(data).hexdigest()

    def claim(self, *names: str) -> Claim:
        """Return a claim of the instances."""
        return claim_of(
            [
                InstanceRef(name, file.sop_instance_uid, file.uuid, len(file.data), file.image_type)
                for name, file in ((name, self.files[name]) for name in names or self.files)
            ]
        )

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        behaviour = self.behaviour
        behaviour.paths.append(request.path)
        if behaviour.drop_next:
            behaviour.drop_next -= 1
            request.close_connection = True
            request.connection.close()
            return
        if behaviour.pages:
            page = behaviour.pages.pop(0)
            self.send(request, page.status, page.body, page.headers)
        elif behaviour.busy_next:
            behaviour.busy_next -= 1
            self.answer(request, 503, {"success": False, "code": "too_busy", "error": "Later."})
        elif behaviour.status:
            self.answer(
                request, behaviour.status, {"success": False, "code": "forbidden_role", "error": "No."}
            )
        elif (match := _RANGES.fullmatch(request.path)) and behaviour.ranges_route:
            self.serve_ranges(request, match[1], json.loads(body)["ranges"])
        elif _FRAMES.fullmatch(request.path) and behaviour.frames:
            self.send(request, 200, behaviour.frames.pop(0), {})
        elif request.path.startswith("/html"):
            self.send(request, 200, b"<html>Welcome</html>", {"Content-Type": "text/html"})
        elif match := _NATIVE.fullmatch(request.path):
            self.serve_native(request, match[1], match[2])
        else:
            self.answer(request, 404, {"success": False, "code": "unknown_route", "error": "No such route."})

    def serve_ranges(self, request: BaseHTTPRequestHandler, name: str, ranges: list[list[int]]) -> None:
        self.behaviour.ranges.append(ranges)
        file = self.files.get(name)
        if file is None:
            self.answer(request, 404, {"success": False, "code": "unknown_resource", "error": "Gone."})
        elif request.headers.get("If-Match") != f'"{file.uuid}"':
            self.answer(request, 409, {"success": False, "code": "changed_in_mid_read", "error": "Changed."})
        elif len(ranges) > 512 or sum(length for _, length in ranges) > 32_000_000:
            self.answer(request, 413, {"success": False, "code": "range_too_large", "error": "Too large."})
        else:
            data = b"".join(file.data[offset : offset + length] for offset, length in ranges)
            self.send(request, 200, data, {"ETag": f'"{file.uuid}"', "X-Pathology-Size": str(len(file.data))})

    def serve_native(self, request: BaseHTTPRequestHandler, name: str, what: str) -> None:
        file = self.files.get(name)
        if file is None:
            self.answer(request, 404, {"HttpStatus": 404})
        elif what == "file":
            self.send(request, 200, file.data, {})
        elif what.endswith("data"):
            self.serve_data(request, file)
        elif what == "simplified-tags":
            self.answer(request, 200, file.tags)
        else:
            self.answer(request, 200, {"Uuid": file.uuid, "UncompressedSize": len(file.data)})

    def serve_data(self, request: BaseHTTPRequestHandler, file: StoredFile) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if asked is None or not self.behaviour.http_range:
            self.send(request, 200, file.data, {})
            return
        first, last = int(asked[1]), min(int(asked[2]), len(file.data) - 1)
        headers = {"Content-Range": f"bytes {first}-{last}/{len(file.data)}"}
        self.send(request, 206, file.data[first : last + 1], headers)

    def answer(self, request: BaseHTTPRequestHandler, status: int, document: Any) -> None:
        self.send(request, status, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def send(
        self, request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str]
    ) -> None:
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if self.behaviour.cut_next and len(data) > 1:
            self.behaviour.cut_next -= 1
            data = data[: len(data) // 2]
            request.close_connection = True
        request.wfile.write(data)


def claim_of(instances: list[InstanceRef], **request: Any) -> Claim:
    """Return a claim of some instances."""
    return Claim(
        {"request_id": "0" * 32, "fingerprint": "f" * 64, **request},
        Lease("t" * 32, 1, 60.0, 15.0, 15.0),
        tuple(instances),
    )
