# SPDX-License-Identifier: Apache-2.0
"""How fast encoders are on a GPU, what half precision does to features, and how busy a queue keeps them.

``python bench/bench_gpu.py [--side 16384 | --dicom FOLDER]``: prints a table and one line of JSON. The
weights are drawn: speed does not depend on them, and the deviation from float32 is that of such weights. The
slides are real tissue tiled up, or a converted slide, on a real Orthanc. Without a GPU it ends with 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.bench_pipeline import QUEUE, Bench, Drawn, store, tiled_up, wait_until_stable
from clam_core.encoders import ENCODERS, Precision
from clam_core.encoders.fold import fold_batch_norms
from clam_core.encoders.precision import require_supported
from clam_core.encoders.torch_network import TorchNetwork
from clam_core.encoders.transforms import normalised
from clam_core.errors import ParameterError
from tests.support.orthanc_server import OrthancServer, store_slide

NAMES = ("resnet50-trunc", "uni")
"""A small convolutional network, and the ViT-L/16 that most labs use."""
BATCH = 64
"""Patches that the worker encodes together."""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--side", type=int, default=16_384, help="pixels of the slides' side")
    arguments.add_argument("--dicom", type=Path, help="folder of one converted slide, in place of a made one")
    arguments.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    options = arguments.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("There is no GPU here that PyTorch can use: nothing was measured.", file=sys.stderr)
        return 2
    device = torch.device(options.device)
    rows: dict[str, float] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gpu-")))
        weights = {name: drawn_weights(name, folder) for name in NAMES}
        for name, path in weights.items():
            rows |= encoder_figures(name, path, device, supported(device), options.seconds, BATCH)
        server = stack.enter_context(OrthancServer())
        if options.dicom is None:
            series = store(server, tiled_up(folder, options.side))
        else:
            series = store_slide(server, options.dicom)
            wait_until_stable(server, series)
        best = supported(device)[-1]
        for name, path in weights.items():
            rows |= Bench(server, folder, options.device).busy_queue(series, Drawn(name, path, best))
    for name, value in rows.items():
        print(f"{name:44} {value:12.4f}")
    print(
        json.dumps({"device": describe(device), "queue": QUEUE} | {k: round(v, 4) for k, v in rows.items()})
    )
    return 0


def describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def supported(device: torch.device) -> list[Precision]:
    """Return the precisions that a device computes in, bfloat16 last where it does."""
    found = []
    for precision in (Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16):
        try:
            require_supported(precision, device)
        except ParameterError:
            continue
        found.append(precision)
    return found


def drawn_weights(name: str, folder: Path) -> Path:
    """Write weights that fit an encoder, drawn as its layers draw them."""
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in ENCODERS[name].build().state_dict().items()}, path)
    return path


def encoder_figures(
    name: str,
    weights: Path,
    device: torch.device,
    precisions: Sequence[Precision],
    seconds: float,
    batch: int,
) -> dict[str, float]:
    """Time an encoder in each precision: the bare forward pass, and from bytes to vectors as the worker does.

    Returns
    -------
    dict
        Patches a second, and the deviation of the features from float32 as a share of their length.
    """
    entry = ENCODERS[name]
    side = entry.input_px
    tiles = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    resident = normalised(tiles, entry.normalisation, device)
    resident = resident.contiguous(memory_format=torch.channels_last)
    with torch.device("meta"):
        plain = entry.build()
    plain.load_state_dict(load_file(weights), assign=True)
    bare = fold_batch_norms(plain.eval().requires_grad_(requires_grad=False)).to(device)
    exact, figures = None, dict[str, float]()
    for precision in precisions:
        network = TorchNetwork(bare, entry.normalisation, device, precision)
        vectors = network.encode(tiles)
        exact = vectors if exact is None else exact
        key = f"{name}_{precision}"
        forward = rate(partial(network.forward, resident), device, seconds)
        figures[f"{key}_forward_patches_per_s"] = batch * forward
        figures[f"{key}_patches_per_s"] = batch * rate(partial(network.encode, tiles), device, seconds)
        figures[f"{key}_deviation"] = float(np.linalg.norm(vectors - exact) / np.linalg.norm(exact))
    return figures


def rate(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return how often something is done in a second, once it is warm."""

    def finished() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    work()
    begun, count = finished(), 0
    while time.perf_counter() < begun + seconds:
        work()
        count += 1
    return count / (finished() - begun)


if __name__ == "__main__":
    sys.exit(main())
