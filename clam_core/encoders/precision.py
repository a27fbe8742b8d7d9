# SPDX-License-Identifier: Apache-2.0
"""In which floating-point numbers an encoder computes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum

import torch

from clam_core.errors import ParameterError


class Precision(StrEnum):
    """What convolutions and matrix products compute in; weights, sums and features stay float32.

    The half precisions are PyTorch's automatic mixed precision, for GPUs that have units for them. They move
    the features: bfloat16 those of EfficientNet-Lite0 on tissue by 5 % of their length; float16 keeps three
    bits more of each number and holds none above 65,504.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    def on(self, device: torch.device) -> AbstractContextManager[object]:
        """Return what a forward pass on a device is made in."""
        if self is not Precision.FLOAT32:
            return torch.autocast(device.type, _TYPES[self])
        return nullcontext() if device.type == "cpu" else _without_tf32()


_TYPES = {Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Let convolutions on a GPU compute in the numbers they are given.

    PyTorch's default for them, unlike for matrix products, is TF32, which has 10 bits of a number's 23.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


HALF_PRECISION = "half_precision"
"""Flag: the encoder computed in other numbers than models are trained in."""


def precision_flags(precision: Precision) -> tuple[str, ...]:
    """Return what the reader of a result should know of the precision."""
    return () if precision is Precision.FLOAT32 else (HALF_PRECISION,)


def require_supported(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that a device computes slowly or not at all.

    Raises
    ------
    ParameterError
        float16 on a CPU; bfloat16 on a GPU without units for it (before NVIDIA's Ampere).
    """
    if precision is Precision.FLOAT16 and device.type == "cpu":
        raise ParameterError("The precision float16 needs a GPU: use float32 or bfloat16 on a CPU.")
    if precision is Precision.BFLOAT16 and device.type == "cuda" and not _has_bfloat16(device):
        raise ParameterError(
            f"{torch.cuda.get_device_name(device)} does not compute in bfloat16: use float16 or float32."
        )


def _has_bfloat16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
