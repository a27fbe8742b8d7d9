# SPDX-License-Identifier: Apache-2.0
"""The plugin's routes as methods and values, and HTTP below them."""
