# SPDX-License-Identifier: Apache-2.0
"""What ``pathology-worker doctor`` looks at."""
