# SPDX-License-Identifier: Apache-2.0
"""How much of a slide's time is not the encoder's, on a real Orthanc and the worker's own parts.

``python bench/bench_pipeline.py [--only PART ...] [--side 15872] [--queue-side 11776]``: prints a table and
one line of JSON.
The slides are real tissue tiled up, through the converter. The encoders are the demonstration model's and
ResNet-50 with drawn weights (its speed does not depend on them). Memory and growth are measured on a slide
that exists only as a function, in a process of its own, with an encoder that takes no time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.busy_encoder import BusyEncoder
from clam_core.encoders import Precision, load_encoder
from clam_core.encoders.resnet import TruncatedResNet50
from clam_core.encoders.transforms import IMAGENET, normalised
from clam_core.model import LoadedModel
from clam_core.package import ModelPackage
from tests.support.orthanc_server import OrthancServer
from worker.assembly import beside_gpu, build_daemon, make_telemetry, slide_opener
from worker.demo_slide import demo_slide
from worker.drawn_slide import write_tiled_tiff
from worker.ingest.environment import converter_python
from worker.ingest.identity import SlideOptions
from worker.ingest.pipeline import Ingest
from worker.ingest.progress import silent
from worker.ingest.store import OrthancStore
from worker.jobs.analysis import ClamAnalyzer
from worker.processes.shutdown import ShutdownRequest
from worker.serving.daemon import Mode
from worker.settings import Credentials, Settings
from worker.settings_reading import load_settings

ROOT = Path(__file__).resolve().parents[1]
EAGER_BATCH = 32
QUEUE = 6
ON_ORTHANC = {"demo", "resnet50", "queue"}
PARTS = ("encoder", "memory", "demo", "resnet50", "queue")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--side", type=int, default=15_872, help="pixels of the long slide's side")
    arguments.add_argument("--queue-side", type=int, default=11_776, help="of the slide that waits six times")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts alone")
    options = arguments.parse_args()
    rows: dict[str, float] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-pipeline-")))
        weights = resnet_weights(folder)
        if "encoder" in options.only:
            rows |= encoder_speed(weights, options.repeats)
        if "memory" in options.only:
            rows |= memory()
        if ON_ORTHANC & set(options.only):
            rows |= on_orthanc(stack.enter_context(OrthancServer()), folder, weights, options)
    for name, value in rows.items():
        print(f"{name:36} {value:12.3f}")
    print(json.dumps({name: round(value, 4) for name, value in rows.items()}))


def on_orthanc(
    server: OrthancServer, folder: Path, weights: Path, options: argparse.Namespace
) -> dict[str, float]:
    """Measure what needs a slide in a server."""
    rows: dict[str, float] = {}
    bench = Bench(server, folder)
    if {"demo", "resnet50"} & set(options.only):
        long = store(server, tiled_up(folder, options.side))
        if "demo" in options.only:
            rows |= bench.one_slide(long, options.repeats)
        if "resnet50" in options.only:
            rows |= bench.one_slide(long, options.repeats, Drawn("resnet50-trunc", weights))
    if "queue" in options.only:
        rows |= bench.queue(store(server, tiled_up(folder, options.queue_side)))
    return rows


def tiled_up(folder: Path, side: int) -> Path:
    """Write real tissue tiled up to a square."""
    chosen = demo_slide(folder)
    with openslide.OpenSlide(chosen.path) as slide:
        piece = np.asarray(slide.read_region((0, 0), 0, (2048, 2048)).convert("RGB"))
    times = -(-side // 2048)
    path = folder / f"tiled-up-{side}.tiff"
    write_tiled_tiff(path, np.tile(piece, (times, times, 1))[:side, :side], 0.499)
    return path


def store(server: OrthancServer, slide: Path) -> str:
    """Store a slide as `pathology-worker ingest` does, wait until it may be claimed; return its id."""
    with ExitStack() as stack:
        client = OrthancStore(server.url, Credentials(*server.person))
        stack.callback(client.close)
        python = converter_python(None, silent)
        (stored,) = Ingest(client, lambda: python, silent).run(slide, SlideOptions())
    wait_until_stable(server, stored.series)
    return stored.series


def wait_until_stable(server: OrthancServer, series: str) -> None:
    """Wait until Orthanc calls a slide complete."""
    deadline = time.monotonic() + 30
    while not server.get(f"/series/{series}").json()["IsStable"]:
        assert time.monotonic() < deadline, "Orthanc does not call the slide complete"
        time.sleep(0.1)


def resnet_weights(folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder / "resnet50-trunc.safetensors"
    save_file(TruncatedResNet50().state_dict(), path)
    return path


def encoder_speed(weights: Path, repeats: int) -> dict[str, float]:
    """Time ResNet-50 as the worker runs it beside the plain eager loop, turn about."""
    tiles = np.random.default_rng(0).integers(0, 256, (EAGER_BATCH, 224, 224, 3), dtype=np.uint8)
    network = load_plain(weights)
    encoder = load_encoder("resnet50-trunc", weights=weights, compiled=True)

    def eager() -> np.ndarray:
        with torch.inference_mode():
            batch = normalised(tiles, IMAGENET, torch.device("cpu")).contiguous()
            return np.asarray(network(batch))

    wanted, found = eager(), encoder.encode_framed(tiles)
    times: dict[str, list[float]] = {"eager": [], "worker": []}
    for _ in range(repeats):
        for name, work in (("eager", eager), ("worker", lambda: encoder.encode_framed(tiles))):
            begun = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begun)
    slow, fast = (statistics.median(seconds) for seconds in times.values())
    return {
        "eager_patches_per_s": EAGER_BATCH / slow,
        "resnet50_patches_per_s": EAGER_BATCH / fast,
        "eager_ratio": slow / fast,
        "eager_deviation": float(np.abs(found - wanted).max() / np.abs(wanted).max()),
    }


def load_plain(weights: Path) -> torch.nn.Module:
    from safetensors.torch import load_file  # noqa: PLC0415 - the plain loop's own way

    network = TruncatedResNet50().eval().requires_grad_(requires_grad=False)
    network.load_state_dict(load_file(weights))
    return network


def memory() -> dict[str, float]:
    """Analyse functions that look like slides, each size in a process of its own."""
    rows: dict[str, float] = {}
    for name, patches in (("1x", 190), ("4x", 760), ("16x", 3040)):
        answer = subprocess.run(
            [sys.executable, str(ROOT / "bench" / "endless_slide.py"), str(patches)],
            check=True, capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        found = json.loads(answer.stdout.splitlines()[-1])
        rows[f"patches_{name}"] = found["patches"]
        rows[f"ms_per_patch_{name}"] = 1000 * found["encode_s"] / found["patches"]
        rows[f"peak_memory_mb_{name}"] = found["peak_memory_mb"]
    rows["peak_memory_mb"] = rows["peak_memory_mb_16x"]
    return rows


@dataclass(frozen=True)
class Drawn:
    """An encoder with drawn weights."""

    name: str
    weights: Path
    precision: Precision = Precision.FLOAT32


class Bench:
    """The worker's daemon in this process, its encoders watched."""

    def __init__(self, server: OrthancServer, folder: Path, device: str = "cpu") -> None:
        self._server = server
        self._folder = folder
        self._device = device

    def one_slide(self, series: str, repeats: int, drawn: Drawn | None = None) -> dict[str, float]:
        """Analyse one slide, then let a second model of the same encoder have it, so many times."""
        kind = "demo" if drawn is None else "resnet50"
        settings = self._settings(FEATURE_CACHE_DIR=str(self._folder / f"features-{kind}"))
        analyzer, encoder = self._analyzer(settings, kind, drawn)
        first = self._served(settings, analyzer, [(series, kind)])
        share = encoder.idle_share(first.begun, first.ended, first.dicom_s)
        second = [self._served(settings, analyzer, [(series, "second")]) for _ in range(repeats)]
        cached = [served.ended - served.begun - served.dicom_s for served in second]
        timings = {f"timings_{kind}_cached": [served.timings for served in second]}
        print(json.dumps({f"timings_{kind}": first.timings, **timings}))
        suffix = "" if drawn is None else "_resnet50"
        return {
            f"patches{suffix}": first.patches,
            f"outside_encoder_share{suffix}": share,
            f"dicom_s{suffix}": first.dicom_s,
            f"claim_to_complete_s{suffix}": first.ended - first.begun,
            f"cached_second_model_s{suffix}": statistics.median(cached),
            f"cached_second_model_most_s{suffix}": max(cached),
            f"cached_dicom_s{suffix}": statistics.median(served.dicom_s for served in second),
        }

    def queue(self, series: str) -> dict[str, float]:
        """Analyse a slide six times in a row; nothing is kept, so each is encoded."""
        settings = self._settings(FEATURE_CACHE_MAX_MB="0")
        analyzer, encoder = self._analyzer(settings, "demo", None)
        self._served(settings, analyzer, [(series, "demo")] * QUEUE)
        gaps = encoder.longest_gaps(QUEUE - 1)
        return {
            "idle_between_slides_s": statistics.median(gaps),
            "idle_between_slides_most_s": max(gaps),
        }

    def busy_queue(self, series: str, drawn: Drawn) -> dict[str, float]:
        """Analyse a slide six times in a row; return how busy that kept the encoder, and the time a slide.

        Busy counts what holds the encoder up as well: how fast patches came through tells the two apart.
        """
        settings = self._settings(FEATURE_CACHE_MAX_MB="0")
        analyzer, encoder = self._analyzer(settings, drawn.name, drawn)
        served = self._served(settings, analyzer, [(series, drawn.name)] * QUEUE)
        key = f"{drawn.name}_{drawn.precision}_queue"
        return {
            f"{key}_busy_share": encoder.busy_share(),
            f"{key}_s_per_slide": (served.ended - served.begun) / QUEUE,
            f"{key}_patches": served.patches,
            f"{key}_patches_per_s": served.patches / served.timings["encode"],
        }

    def _settings(self, **more: str) -> Settings:
        user, password = self._server.worker
        return load_settings(
            {
                "ORTHANC_URL": self._server.url,
                "ORTHANC_USER": user,
                "ORTHANC_PASSWORD": password,
                "MODEL_PATH": "demo",
                "DEVICE": self._device,
                "WORKER_ID": "bench",
                "SPOOL_DIR": str(self._folder / "spool"),
                "LOG_LEVEL": "WARNING",
                **more,
            }
        )

    def _analyzer(
        self, settings: Settings, name: str, drawn: Drawn | None
    ) -> tuple[ClamAnalyzer, BusyEncoder]:
        loaded = ClamAnalyzer.load(settings)
        (demo,) = loaded.models.values()
        assert isinstance(demo.package, ModelPackage)
        if drawn is None:
            encoder = BusyEncoder(demo.encoder)
            aggregator: Any = demo.aggregator
        else:
            loaded_encoder = load_encoder(
                drawn.name,
                weights=drawn.weights,
                device=demo.device,
                compiled=True,
                precision=drawn.precision,
            )
            encoder = BusyEncoder(loaded_encoder)
            aggregator = FirstValues(demo)
        models = {
            offered: LoadedModel(
                replace(demo.package, name=offered, sha256=digit * 64, reference=None),
                encoder, aggregator, demo.device,
            )
            for offered, digit in ((name, "1"), ("second", "2"))
        }  # fmt: skip
        return replace(loaded, models=models, default_model=next(iter(models))), encoder

    def _served(
        self, settings: Settings, analyzer: ClamAnalyzer, wanted: Sequence[tuple[str, str]]
    ) -> Served:
        offer(self._server, analyzer)
        ids = []
        for series, model in wanted:
            body = {"series": series, "model": model, "force": True}
            answer = self._server.post("/pathology/analyze", json=body)
            answer.raise_for_status()
            ids.append(answer.json()["request_id"])
        shutdown, telemetry = ShutdownRequest(), make_telemetry()
        opener = slide_opener(settings, telemetry)
        with beside_gpu(analyzer) as apart:
            daemon = build_daemon(settings, analyzer, shutdown, opener, telemetry, bars=False, apart=apart)
            if apart is not None:
                apart.call(os.getpid)  # a worker has started it long before its first slide
            begun = time.perf_counter()
            daemon.run(Mode.UNTIL_EMPTY)
            ended = time.perf_counter()
        request = self._server.get(f"/pathology/requests/{ids[-1]}").json()["request"]
        assert request["status"] == "completed", request
        return Served(begun, ended, request["result"])


def offer(server: OrthancServer, analyzer: ClamAnalyzer) -> None:
    """Let the server know the models, so that requests can name them."""
    body = {
        "worker_id": "bench", "token": "0" * 32, "api": 1, "wait": 0, "software": "0", "device": "cpu",
        "models": [item.as_json() for item in analyzer.offers], "default_model": analyzer.default_model,
    }  # fmt: skip
    server.post("/pathology/claim", json=body, auth=server.worker)


class FirstValues:
    """The demonstration model on as many values a patch as it knows, of an encoder that gives others."""

    def __init__(self, model: LoadedModel) -> None:
        self._aggregator = model.aggregator
        self._dim = model.encoder.dim

    def predict(self, features: np.ndarray) -> Any:
        """Predict from features (N, D)."""
        padded = np.zeros((len(features), self._dim), np.float32)
        padded[:, : features.shape[1]] = features[:, : self._dim]
        return self._aggregator.predict(padded)


class Served:
    """What one run of the daemon came to."""

    def __init__(self, begun: float, ended: float, result: dict[str, Any]) -> None:
        self.begun, self.ended = begun, ended
        self.timings: dict[str, float] = result["timings_s"]
        self.dicom_s = self.timings.get("dicom", 0.0)
        self.patches = result["patches"]["count"]


if __name__ == "__main__":
    main()
