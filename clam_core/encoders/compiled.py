# SPDX-License-Identifier: Apache-2.0
"""Networks run by OpenVINO on a CPU: the same features to 1e-5 in a third of the time of plain PyTorch.

An optional dependency (``pip install '.[cpu]'``). OpenVINO reports its use to its makers over the internet,
when it is imported and in its ``convert_model``; no worker in a hospital may. So it is imported without the
package that does it, and the network goes to its front end by a trace.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clam_core.encoders.precision import Precision
from clam_core.encoders.transforms import Normalisation


def is_available() -> bool:
    """Return whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


class CompiledNetwork:
    """A network compiled for this CPU, one tile at a time on each of its streams.

    A tile never shares a batch with another, so that its vector does not depend on its company.

    Parameters
    ----------
    network
        In evaluation mode, (1, 3, H, W) -> (1, dim).
    input_px
        Side of its input.
    dim
        Values a tile.
    normalisation
        What the network was trained with; becomes part of it.
    """

    def __init__(self, network: nn.Module, input_px: int, dim: int, normalisation: Normalisation) -> None:
        openvino = _without_reports()
        self.numerics = f"float32 on cpu, OpenVINO {openvino.__version__.split('-', maxsplit=1)[0]}"
        self.precision = Precision.FLOAT32
        self._dim = dim
        model = _with_preparation(_converted(network, input_px), normalisation)
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # A worker shares its cores with the readers of the next patches.
            "ENABLE_CPU_PINNING": False,
        }
        self._queue = openvino.AsyncInferQueue(openvino.Core().compile_model(model, "CPU", settings))
        self._one_caller = threading.Lock()

    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB tiles (B, H, W, 3) of the size of the input into vectors (B, dim)."""
        vectors = np.empty((len(tiles), self._dim), np.float32)

        def keep(request: Any, index: int) -> None:
            vectors[index] = request.get_output_tensor().data[0]

        with self._one_caller:
            self._queue.set_callback(keep)
            for index in range(len(tiles)):
                self._queue.start_async({0: np.ascontiguousarray(tiles[index : index + 1])}, index)
            self._queue.wait_all()
        return vectors


def _without_reports() -> Any:
    """Import OpenVINO as if ``openvino_telemetry`` were not installed: its stand-in sends nothing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # how an import is refused
    import openvino  # noqa: PLC0415 - optional

    return openvino


def _converted(network: nn.Module, input_px: int) -> Any:
    from openvino.frontend import FrontEndManager  # noqa: PLC0415 - optional
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: PLC0415 - optional

    example = torch.zeros(1, 3, input_px, input_px)
    with torch.no_grad(), warnings.catch_warnings():
        # Tracing is deprecated in favour of torch.export, which OpenVINO 2026.4 reads with gaps.
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False))  # type: ignore[no-untyped-call]
    front_end = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=example)
    loaded = front_end.load(decoder)
    model = front_end.convert(loaded)
    model.reshape([1, 3, input_px, input_px])
    return model


def _with_preparation(model: Any, normalisation: Normalisation) -> Any:
    """Let the model take bytes, (1, H, W, 3), as tiles are read."""
    from openvino import Layout, Type  # noqa: PLC0415 - optional
    from openvino.preprocess import PrePostProcessor  # noqa: PLC0415 - optional

    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
    steps.input().model().set_layout(Layout("NCHW"))
    steps.input().preprocess().convert_element_type(Type.f32).mean(
        [255 * value for value in normalisation.mean]
    ).scale([255 * value for value in normalisation.std])
    return steps.build()
