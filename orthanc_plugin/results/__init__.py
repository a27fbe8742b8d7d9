# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files of a result: which there may be, and how other programs read them."""
