# SPDX-License-Identifier: Apache-2.0
"""A worker put together from its real parts, with a scripted server and a scripted analysis."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import requests

from clam_core.run import EncoderTurn
from tests.support.scripted_server import ScriptedServer
from worker.api.calls import Retry
from worker.api.client import PluginClient
from worker.api.contract import Claim, ModelOffer
from worker.api.transport import make_session
from worker.backoff import Backoff
from worker.jobs.dicom_step import DicomStep
from worker.jobs.job import Analysis, Job, StageReport
from worker.processes.shutdown import ShutdownRequest
from worker.progress import LineView
from worker.result_kinds import ALL_KINDS
from worker.serving.daemon import Daemon
from worker.serving.outbox import Outbox
from worker.serving.spool import Spool, SpoolLimits
from worker.settings import Credentials, Settings
from worker.settings_reading import load_settings

QUICK = Retry(attempts=4, backoff=Backoff(base_s=0.01, cap_s=0.05))
PASSWORD = "worker-password-canary"


class NoSlide:
    """Stands where an open slide would: the scripted analysis never looks at it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@dataclass
class ScriptedAnalyzer:
    """Runs a function in place of a model."""

    work: Callable[[Mapping[str, Any], StageReport], Analysis]
    offers: tuple[ModelOffer, ...] = (ModelOffer("test-model", "1", "0" * 64),)
    default_model: str | None = "test-model"
    device: str = "cpu"
    analyzed: list[str] = field(default_factory=list)

    def analyze(
        self, slide: Any, request: Mapping[str, Any], report: StageReport, turn: EncoderTurn
    ) -> Analysis:
        self.analyzed.append(request["request_id"])
        report("encode", 0.5, "half")
        return self.work(request, report)


def good_analysis(request: Mapping[str, Any], report: StageReport) -> Analysis:
    result = {
        "predicted_class": "tumor",
        "probabilities": {"normal": 0.2, "tumor": 0.8},
        "timings_s": {"encode": 1.0},
    }
    return Analysis(result, {"heatmap.png": b"\x89PNG heatmap", "attention.npz": b"PK attention"})


class Rig:
    """One worker against one scripted server."""

    def __init__(self, server: ScriptedServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.environment: dict[str, str] = {
            "ORTHANC_URL": server.url,
            "ORTHANC_USER": "worker",
            "ORTHANC_PASSWORD": PASSWORD,
            "WORKER_ID": "lab-1",
            "SPOOL_DIR": str(folder / "spool"),
            "LONG_POLL": "5",
            "READ_TIMEOUT": "5",
            "POLL_INTERVAL": "1",
        }
        self.shutdown = ShutdownRequest()
        self.analyzer = ScriptedAnalyzer(good_analysis)
        self.open_slide: Callable[[Claim], Any] = lambda _claim: NoSlide()
        self.backoff = Backoff(base_s=0.01, cap_s=0.05)

    @property
    def settings(self) -> Settings:
        return load_settings(self.environment)

    @property
    def spool(self) -> Spool:
        settings = self.settings
        limits = SpoolLimits(settings.spool_max_bytes, settings.spool_max_age_s)
        return Spool(settings.spool_dir / settings.worker_id, limits)

    def client(self) -> PluginClient:
        return PluginClient(self.settings, self.settings.worker, retry=QUICK, wait=self.shutdown.at_once.wait)

    def daemon(self) -> Daemon:
        return Daemon(
            self.settings,
            self.analyzer,
            Job("lab-1", self.analyzer, self.open_slide, DicomStep(ALL_KINDS)),
            Outbox(self.client(), self.spool, wait=self.shutdown.requested.wait),
            make_client=self.client,
            make_view=LineView,
            shutdown=self.shutdown,
            backoff=self.backoff,
        )

    def start(self) -> threading.Thread:
        """Run the daemon in a thread until the test asks it to end."""
        thread = threading.Thread(target=self.daemon().run, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """Return what speaks to a server of slides as the worker does."""
    with make_session(Credentials("worker", "secret")) as opened:
        yield opened


@pytest.fixture
def rig(server: ScriptedServer, tmp_path: Path) -> Rig:
    return Rig(server, tmp_path)


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
