# SPDX-License-Identifier: AGPL-3.0-or-later
"""What people and workers do with requests: one module for each use, all on one `Core`."""
