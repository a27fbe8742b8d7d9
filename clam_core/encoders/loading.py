# SPDX-License-Identifier: Apache-2.0
"""From an encoder's name and its weights to something that encodes tiles."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clam_core.encoders.compiled import CompiledNetwork, is_available
from clam_core.encoders.fold import fold_batch_norms
from clam_core.encoders.precision import Precision, require_supported
from clam_core.encoders.registry import ENCODERS, EncoderEntry
from clam_core.encoders.torch_network import TorchNetwork
from clam_core.encoders.transforms import Framing, framed
from clam_core.errors import CheckpointError, EncoderWeightsError, UnsupportedCheckpointError
from clam_core.tensors import read_tensors, sha256_of

SHOWN = 3
"""So many tensors are named in an error; the rest is counted."""


HOW_TO_NAME = "name the file by --encoder-weights FILE, or by ENCODER_WEIGHTS for a worker"
"""The end of a sentence about weights that nobody finds by himself."""


class TileEncoder(Protocol):
    """Something that turns tiles into vectors."""

    @property
    def name(self) -> str:
        """Its name in the registry."""

    @property
    def dim(self) -> int:
        """Values a tile."""

    @property
    def input_px(self) -> int:
        """Side of its square input."""

    @property
    def sha256(self) -> str:
        """Of its weights file."""

    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB tiles (B, H, W, 3) of any size into vectors (B, dim)."""


class Encoder(TileEncoder, Protocol):
    """An encoder whose work can be shared out: threads frame tiles while it computes on others."""

    @property
    def numerics(self) -> str:
        """How it computes, in words: the same words, the same vector for a tile.

        To the last bit on a CPU; on a GPU the kernels, and with them the last digits, may follow the batch.
        """

    @property
    def precision(self) -> Precision:
        """What it computes in."""

    def frame(self, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and cut one RGB tile (H, W, 3) to the size of the input; safe in several threads at once."""

    def encode_framed(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode tiles that were framed, (B, H, W, 3), into vectors (B, dim)."""


class Network(Protocol):
    """What computes an encoder's vectors."""

    @property
    def numerics(self) -> str:
        """How it computes, in words."""

    @property
    def precision(self) -> Precision:
        """What it computes in."""

    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB tiles (B, H, W, 3) of the size of its input, at least one, into vectors (B, dim)."""


class NetworkEncoder:
    """An encoder of the registry.

    Parameters
    ----------
    entry
        What it is.
    sha256
        Of its weights file.
    network
        What computes.
    """

    def __init__(self, entry: EncoderEntry, sha256: str, network: Network) -> None:
        self.name = entry.name
        self.dim = entry.dim
        self.input_px = entry.input_px
        self.sha256 = sha256
        self.numerics, self.precision = network.numerics, network.precision
        self._framing = Framing(entry.input_px, entry.resize_px, entry.interpolation)
        self._network = network

    def frame(self, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and cut one RGB tile (H, W, 3) to the size of the input."""
        return self._framing.apply(tile)

    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resize, normalise and encode tiles.

        Parameters
        ----------
        tiles
            RGB tiles (B, H, W, 3) of any size.

        Returns
        -------
        numpy.ndarray
            float32 (B, dim).

        Raises
        ------
        ParameterError
            If the tiles have another shape or type.
        """
        return self.encode_framed(framed(tiles, self._framing))

    def encode_framed(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise and encode tiles (B, H, W, 3) of the size of the input."""
        if len(tiles) == 0:
            return np.empty((0, self.dim), np.float32)
        return self._network.encode(tiles)


def load_encoder(
    name: str,
    *,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    fold: bool = True,
    compiled: bool = False,
    precision: Precision = Precision.FLOAT32,
) -> Encoder:
    """Load an encoder by name.

    Parameters
    ----------
    name
        A key of `ENCODERS`.
    weights
        Its weights file; not needed where the registry knows where they lie.
    device
        Where it shall run.
    fold
        Merge batch norms into convolutions: the features agree to 1e-5 of the largest, in half the time.
    compiled
        Let OpenVINO run it, on a CPU, where that is installed and the registry says that it does it well:
        another third of the time, and other last digits. It computes in float32.
    precision
        What the encoder computes in; see `Precision`.

    Returns
    -------
    Encoder
        Ready to encode.

    Raises
    ------
    EncoderWeightsError
        If the name is unknown, or the weights are missing, damaged, another file than the pinned one, or
        those of another encoder.
    ParameterError
        If the device does not compute in this precision.
    """
    entry = _entry(name)
    target = torch.device(device)
    require_supported(precision, target)
    path = weights or entry.find()
    if path is None or not path.is_file():
        place = "are not installed" if path is None else f"are not at {path}"
        # The one file that is known is found by itself once its package is installed.
        naming = f", and {HOW_TO_NAME}" if entry.sha256 is None else ""
        raise EncoderWeightsError(f"The weights of the encoder {name} {place}: {entry.how_to_get}{naming}.")
    sha256 = _verified_sha256(entry, path)
    network = _filled(entry, path).eval().requires_grad_(requires_grad=False)
    if fold:
        network = fold_batch_norms(network)
    compiled = compiled and precision is Precision.FLOAT32
    return NetworkEncoder(entry, sha256, _prepared(entry, network, target, precision, compiled=compiled))


def _prepared(
    entry: EncoderEntry, network: nn.Module, device: torch.device, precision: Precision, *, compiled: bool
) -> Network:
    if compiled and entry.compiles and device.type == "cpu" and is_available():
        return CompiledNetwork(network, entry.input_px, entry.dim, entry.normalisation)
    # torch 2.13's stubs lack this overload of Module.to.
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TorchNetwork(network, entry.normalisation, device, precision)


def _entry(name: str) -> EncoderEntry:
    if name not in ENCODERS:
        raise EncoderWeightsError(
            f"There is no encoder named {name!r}: use one of {', '.join(sorted(ENCODERS))}."
        )
    return ENCODERS[name]


def _verified_sha256(entry: EncoderEntry, path: Path) -> str:
    sha256 = sha256_of(path)
    if entry.sha256 is not None and sha256 != entry.sha256:
        raise EncoderWeightsError(
            f"{path} is not the file that is known for {entry.name} (SHA-256 {sha256[:12]}... instead of "
            f"{entry.sha256[:12]}...): {entry.how_to_get}."
        )
    return sha256


def _filled(entry: EncoderEntry, path: Path) -> nn.Module:
    try:
        tensors = entry.select(read_tensors(path))
    except (CheckpointError, UnsupportedCheckpointError) as error:
        raise EncoderWeightsError(
            f"The weights of the encoder {entry.name} cannot be read: {error}"
        ) from error
    # Nothing is drawn or copied for weights that come from the file: a billion of them would take a minute.
    with torch.device("meta"):
        network = entry.build()
    _check_fit(entry, path, network, tensors)
    _require_numbers(entry, path, tensors)
    network.load_state_dict({key: _single(value) for key, value in tensors.items()}, assign=True)
    return network


def _single(tensor: torch.Tensor) -> torch.Tensor:
    """Give weights that were saved in half precision the precision that everything here computes in."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _check_fit(
    entry: EncoderEntry, path: Path, network: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Say which tensors are missing, unknown or of another shape, before torch says it at length."""
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    problems = [
        *_listed("lacks", sorted(wanted.keys() - found.keys())),
        *_listed("has besides", sorted(found.keys() - wanted.keys())),
        *_listed(
            "has in another shape",
            [
                f"{key} {found[key]} (not {wanted[key]})"
                for key in wanted
                if found.get(key, wanted[key]) != wanted[key]
            ],
        ),
    ]
    if problems:
        raise EncoderWeightsError(
            f"{path} does not fit the encoder {entry.name}: it {'; '.join(problems)}. "
            f"{_sentence(entry.how_to_get)}."
        )


def _require_numbers(entry: EncoderEntry, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse at the start what would fail at the first patches of each slide."""
    broken = sorted(key for key, value in tensors.items() if not torch.isfinite(value).all())
    if broken:
        raise EncoderWeightsError(
            f"{path} cannot be used: it {_listed('has NaN or infinite values in', broken)[0]}. "
            f"{_sentence(entry.how_to_get)}."
        )


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{what} {', '.join(names[:SHOWN])}{more}"]


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]
