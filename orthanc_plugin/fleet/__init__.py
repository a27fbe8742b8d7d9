# SPDX-License-Identifier: AGPL-3.0-or-later
"""The workers: who is alive, what they offer and count, which are to take nothing more."""
