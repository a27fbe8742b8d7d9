# SPDX-License-Identifier: Apache-2.0
"""The command ``clam-core``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

import clam_core
from clam_core import commands
from clam_core.errors import ClamCoreError

USER_ERROR = 2
"""Exit code where the user can do something about it."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser, with a subparser for every module of `clam_core.commands`."""
    parser = argparse.ArgumentParser(
        prog="clam-core", description="Slides in, predictions out: CLAM on whole-slide images."
    )
    parser.add_argument("--version", action="version", version=f"clam-core {clam_core.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for module in iter_modules(commands.__path__):
        import_module(f"{commands.__name__}.{module.name}").add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns
    -------
    int
        0, or 2 where input, model or parameters are at fault: then one line on stderr says what to do.
    """
    chosen = build_parser().parse_args(arguments)
    try:
        code: int = chosen.run(chosen)
    except ClamCoreError as error:
        print(f"clam-core: {error} [{error.code}]", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print(f"clam-core: a file cannot be read or written ({error}).", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("clam-core: stopped.", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
