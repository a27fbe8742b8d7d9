# SPDX-License-Identifier: Apache-2.0
"""The command ``clam-core``."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

import clam_core
from clam_core import commands
from clam_core.arguments import OneSentenceParser
from clam_core.errors import ClamCoreError

USER_ERROR = 2
"""Exit code where the user can do something about it."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser, with a subparser for every module of `clam_core.commands`."""
    parser = OneSentenceParser(
        prog="clam-core", description="Slides in, predictions out: CLAM on whole-slide images."
    )
    parser.add_argument("--version", action="version", version=f"clam-core {clam_core.__version__}")
    subparsers = parser.add_subparsers(required=True)
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
        print(f"clam-core: {_sentence_of(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("clam-core: stopped.", file=sys.stderr)
        return 130
    return code


def _sentence_of(error: OSError) -> str:
    named = error.filename or "A file"
    if isinstance(error, FileNotFoundError):
        return f"There is no {named}: check the path."
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"{named} may not be read or written: check its rights, or name another place."
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "The disk is full: free some of it, or name another place."
    return f"{named} cannot be read or written ({error.strerror or error}): check path and disk."


if __name__ == "__main__":
    sys.exit(main())
