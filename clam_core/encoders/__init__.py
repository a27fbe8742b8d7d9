# SPDX-License-Identifier: Apache-2.0
"""Tile encoders: pictures of tissue in, vectors out."""

from clam_core.encoders.loading import Encoder, TileEncoder, load_encoder
from clam_core.encoders.precision import Precision
from clam_core.encoders.registry import ENCODERS, EncoderEntry

__all__ = ["ENCODERS", "Encoder", "EncoderEntry", "Precision", "TileEncoder", "load_encoder"]
