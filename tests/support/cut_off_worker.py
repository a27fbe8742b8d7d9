# SPDX-License-Identifier: Apache-2.0
"""A worker process that stops at a given batch: ``python -m tests.support.cut_off_worker``.

Daemon, job, analysis and feature cache are those of ``pathology-worker run``, on a real DICOM slide; only
the networks are small. ENCODED names a file that gets a line for each batch, STOP_AT the batch that never
ends (0: none).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from clam_core.model import LoadedModel
from clam_core.slides import WsiDicomSlide
from tests.support.core_fakes import FakeModel, MeanColourEncoder
from worker import logs
from worker.assembly import build_daemon
from worker.jobs.analysis import ClamAnalyzer, feature_store
from worker.processes.shutdown import ShutdownRequest
from worker.serving.daemon import Mode
from worker.settings_reading import load_settings
from worker.sources import Verified


class ClaimedSlide(WsiDicomSlide, Verified):
    """A slide in files that nobody replaces."""


class StoppingEncoder(MeanColourEncoder):
    """Notes each batch before it begins, and never ends one of them."""

    def __init__(self, encoded: Path, stop_at: int) -> None:
        super().__init__()
        self._encoded = encoded
        self._stop_at = stop_at

    def encode_framed(self, tiles: Any) -> Any:
        with self._encoded.open("a") as file:
            file.write(f"{len(tiles)}\n")
        if len(self.batches) + 1 == self._stop_at:
            time.sleep(600)
        return super().encode_framed(tiles)


def main() -> int:
    """Serve one request."""
    settings = load_settings(os.environ)
    logs.configure(settings.log_format, settings.log_level, settings.secrets())
    encoder = StoppingEncoder(Path(os.environ["ENCODED"]), int(os.environ["STOP_AT"]))
    package = FakeModel(name="test-model", patch_px=48, encoder=encoder)
    model = LoadedModel(package, encoder, package.load_aggregator(torch.device("cpu")), torch.device("cpu"))
    analyzer = ClamAnalyzer({"test-model": model}, "test-model", "cpu", feature_store(settings))
    slide = Path(os.environ["SLIDE"])
    daemon = build_daemon(settings, analyzer, ShutdownRequest(), lambda _claim: ClaimedSlide.open(slide))
    daemon.run(Mode.ONCE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
