# SPDX-License-Identifier: Apache-2.0
"""A worker process whose analysis goes on until it is stopped: ``python -m tests.support.held_worker``.

Its settings, signals, daemon and log are those of ``pathology-worker run``; only the model is scripted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clam_core.run import EncoderTurn
from tests.support.core_fakes import ArraySlide, blank
from worker import logs
from worker.api.contract import ModelOffer
from worker.assembly import build_daemon
from worker.jobs.job import Analysis, StageReport
from worker.processes.shutdown import ShutdownRequest
from worker.serving.daemon import Mode
from worker.settings_reading import load_settings


class HeldAnalyzer:
    """Works until a file appears, or for ever in what cannot be interrupted."""

    offers = (ModelOffer("test-model", "1", "0" * 64),)
    default_model = "test-model"
    device = "cpu"

    def __init__(self, let_go: Path, *, deaf: bool) -> None:
        self._let_go = let_go
        self._deaf = deaf

    def analyze(
        self, slide: Any, request: Mapping[str, Any], report: StageReport, turn: EncoderTurn
    ) -> Analysis:
        report("encode", 0.5, "held")
        while not self._let_go.exists():
            time.sleep(0.01)
            if not self._deaf:
                report("encode", 0.5, "held")
        return Analysis({"probabilities": {"tumor": 1.0}}, {"heatmap.png": b"\x89PNG"})


def main() -> int:
    """Run until a signal ends it."""
    settings = load_settings(os.environ)
    logs.configure(settings.log_format, settings.log_level, settings.secrets())
    analyzer = HeldAnalyzer(Path(os.environ["LET_GO"]), deaf="DEAF" in os.environ)
    shutdown = ShutdownRequest()
    shutdown.install()
    daemon = build_daemon(settings, analyzer, shutdown, lambda _claim: ArraySlide(blank(1, 1)))
    end = daemon.run(Mode.FOREVER)
    if end.work_abandoned:
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
