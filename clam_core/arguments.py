# SPDX-License-Identifier: Apache-2.0
"""Types of command-line arguments, for every command that takes them."""

import argparse
import math


def micrometres(text: str) -> float:
    """Read a spacing in micrometres per pixel.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is not a positive number; a decimal comma is named, because half of Europe types one.
    """
    try:
        value = float(text)
    except ValueError:
        hint = f": write it with a point, {text.replace(',', '.')}" if "," in text else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of micrometres{hint}") from None
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be more than 0 micrometres")
    return value
