# SPDX-License-Identifier: Apache-2.0
"""The subcommands of ``pathology-worker``: each module adds one with ``add_parser(subparsers)``."""
