# SPDX-License-Identifier: Apache-2.0
"""What a worker counts of itself, and that it is told in passing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

from clam_core.encoders import Precision
from clam_core.slides import Pixels
from tests.support.scripted_server import ScriptedServer
from tests.unit.worker.conftest import Rig, ScriptedAnalyzer, good_analysis
from worker.assembly import build_daemon, make_telemetry
from worker.commands.status import worker_row
from worker.serving.daemon import Mode
from worker.telemetry import Telemetry


class Clock:
    """A clock that the encoder moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class SlowEncoder:
    """Takes two seconds for whatever it is given."""

    name, dim, input_px, sha256 = "slow", 3, 8, "0" * 64
    numerics, precision = "none", Precision.FLOAT32

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def frame(self, tile: Pixels) -> Pixels:
        return tile

    def encode(self, tiles: Pixels) -> NDArray[np.float32]:
        return self.encode_framed(tiles)

    def encode_framed(self, tiles: Pixels) -> NDArray[np.float32]:
        self._clock.now += 2.0
        return np.zeros((len(tiles), self.dim), np.float32)


def test_patches_and_the_seconds_of_the_encoder_are_counted() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    encoder = telemetry.metered(SlowEncoder(clock))
    features = encoder.encode(np.zeros((5, 8, 8, 3), np.uint8))
    encoder.encode(np.zeros((3, 8, 8, 3), np.uint8))
    clock.now += 50
    assert features.shape == (5, 3)
    assert (encoder.name, encoder.dim, encoder.input_px, encoder.sha256) == ("slow", 3, 8, "0" * 64)
    assert telemetry.counters() == {"tiles": 8, "encode_s": 4.0, "read_bytes": 0}


def test_bytes_are_counted_whatever_reads_them(server: ScriptedServer) -> None:
    telemetry = Telemetry()
    with telemetry.meter(requests.Session()) as session:
        answers = [session.get(f"{server.url}/pathology/health", timeout=5) for _ in range(2)]
    assert telemetry.counters()["read_bytes"] == sum(len(answer.content) for answer in answers) > 0


def test_what_is_left_unread_of_an_answer_is_not_counted(server: ScriptedServer) -> None:
    telemetry = Telemetry()
    with (
        telemetry.meter(requests.Session()) as session,
        session.get(f"{server.url}/pathology/health", timeout=5, stream=True) as answer,
    ):
        assert telemetry.counters()["read_bytes"] == 0
        read = len(next(answer.iter_content(10)))
        assert telemetry.counters()["read_bytes"] == read


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_is_that_of_this_process() -> None:
    assert 50e6 < make_telemetry().counters()["memory_bytes"] < 50e9


def test_claims_and_heartbeats_carry_the_counters(rig: Rig, server: ScriptedServer) -> None:
    telemetry = Telemetry((lambda: {"memory_bytes": 7.0},))

    def work(request: object, report: object) -> object:
        telemetry.add_encoded(12, 0.5)
        return good_analysis({}, report)  # type: ignore[arg-type]

    rig.analyzer = ScriptedAnalyzer(work)  # type: ignore[arg-type]
    server.add_request()
    build_daemon(rig.settings, rig.analyzer, rig.shutdown, rig.open_slide, telemetry).run(Mode.ONCE)
    claimed = server.calls_to("/claim")[0].json["counters"]
    reported = server.calls_to("/update-status/")[-1].json["counters"]
    assert claimed == {"tiles": 0, "encode_s": 0.0, "read_bytes": 0, "memory_bytes": 7.0}
    assert set(reported) == set(claimed)


def test_a_persons_list_tells_what_each_worker_does() -> None:
    idle = {"worker_id": "lab", "alive": True, "device": "cuda:0", "request_id": None, "counters": {}}
    assert worker_row(idle).endswith("waits for requests")
    busy = {**idle, "request_id": "r1", "drain": True, "counters": {"tiles": 100, "encode_s": 4.0}}
    assert worker_row(busy).endswith("works on r1, is given nothing more; 100 patches encoded, 25 a second")
    gone = {**idle, "alive": False, "last_seen": "2026-11-25T10:00:00Z"}
    assert worker_row(gone).endswith("was last heard of at 2026-11-25T10:00:00Z")
    drained = {**gone, "drain": True}
    assert worker_row(drained).endswith("was last heard of at 2026-11-25T10:00:00Z, is given nothing more")
    silent = {**drained, "last_seen": None}
    assert worker_row(silent).endswith("was not heard of since Orthanc's start, is given nothing more")
