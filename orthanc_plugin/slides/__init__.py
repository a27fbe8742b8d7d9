# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is known of a slide by its files."""
