# SPDX-License-Identifier: Apache-2.0
"""Reading of command lines, for every command that has one."""

import argparse
import math
from typing import NoReturn

USAGE_ERROR = 2


class OneSentenceParser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line; argparse puts a page of options in front of it."""

    def error(self, message: str) -> NoReturn:
        """End with a sentence."""
        self.exit(USAGE_ERROR, f"{self.prog}: {message}; {self.prog} --help lists what there is.\n")


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
