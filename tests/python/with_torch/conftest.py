# SPDX-License-Identifier: Apache-2.0
"""Tests of tapfield.torch: collected only where PyTorch is installed and tapfield was built with it."""

import importlib.util
from pathlib import Path

import tapfield

BUILT = Path(tapfield.__file__).with_name("libtapfield_torch.so").exists()
HERE = importlib.util.find_spec("torch") is not None and BUILT
if HERE:
    import torch

    torch.set_num_threads(
        1
    )  # a test that wants more says so: OpenMP's threads spin, and a test process has one core

collect_ignore_glob = [] if HERE else ["test_*.py"]


def pytest_report_header():
    return (
        "tapfield.torch: tested"
        if HERE
        else "tapfield.torch: not tested, PyTorch is not installed (./dev test torch)"
    )
