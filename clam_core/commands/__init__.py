# SPDX-License-Identifier: Apache-2.0
"""The subcommands of ``clam-core``: one module each, with ``add_parser``."""
