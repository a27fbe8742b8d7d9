# SPDX-License-Identifier: Apache-2.0
"""Networks run by PyTorch, on a CPU or a GPU."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clam_core.encoders.precision import Precision
from clam_core.encoders.recorded import RecordedForward
from clam_core.encoders.transforms import Normalisation, Normaliser

CPU_BATCH = 4
"""Tiles a forward pass on a CPU, however many are asked for: their activations stay in the cache.

Measured with EfficientNet-Lite0 on two cores: 83, 137, 104 and 70 tiles/s in batches of 1, 4, 8 and 32.
"""


class TorchNetwork:
    """A network run by PyTorch.

    Parameters
    ----------
    network
        In evaluation mode, on the device.
    normalisation
        What it was trained with.
    device
        Where it lies.
    precision
        What it computes in.
    """

    def __init__(
        self, network: nn.Module, normalisation: Normalisation, device: torch.device, precision: Precision
    ) -> None:
        self.numerics = numerics(precision, device)
        self.precision = precision
        self._network = network
        self._normalise = Normaliser(normalisation, device)
        self._device = device
        self._recorded = None if device.type == "cpu" else RecordedForward(self._vectors, device)

    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise and encode tiles (B, H, W, 3)."""
        if self._recorded is not None:
            return self._recorded(tiles)
        parts = [self._part(tiles[start : start + CPU_BATCH]) for start in range(0, len(tiles), CPU_BATCH)]
        return np.concatenate(parts)

    def _part(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode at most `CPU_BATCH` tiles, always in a full batch.

        A kernel for another number of tiles may add in another order: so a tile has the same vector, to the
        last bit, whatever batch it is in.
        """
        missing = CPU_BATCH - len(tiles)
        full = np.concatenate([tiles, np.repeat(tiles[-1:], missing, axis=0)]) if missing else tiles
        return self._forward(np.ascontiguousarray(full))[: len(tiles)]

    def _forward(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors: NDArray[np.float32] = self._vectors(torch.from_numpy(tiles)).numpy()
        return vectors

    def _vectors(self, tiles: torch.Tensor) -> torch.Tensor:
        """Compute the vectors (B, dim), float32, of tiles (B, H, W, 3) that lie on the device."""
        return self.forward(self._normalise(tiles).contiguous(memory_format=torch.channels_last)).float()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Compute the vectors (B, dim) of a normalised batch (B, 3, H, W) that lies on the device."""
        with torch.inference_mode(), self.precision.on(self._device):
            features: torch.Tensor = self._network(batch)
        return features


def numerics(precision: Precision, device: torch.device) -> str:
    """Say in words how PyTorch computes: GPUs of other kinds have other kernels."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{precision} on {kind}, torch {torch.__version__}"
