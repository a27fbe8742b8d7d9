# SPDX-License-Identifier: Apache-2.0
"""From labelled features to a model package."""
