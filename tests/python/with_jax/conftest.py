# SPDX-License-Identifier: Apache-2.0
"""Tests of tapfield.jax: collected only where JAX is installed and tapfield was built with it."""

import importlib.util
from pathlib import Path

import tapfield

BUILT = Path(tapfield.__file__).with_name("libtapfield_jax.so").exists()
HERE = importlib.util.find_spec("jax") is not None and BUILT
if HERE:
    import jax

    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_enable_x64", True)

collect_ignore_glob = [] if HERE else ["test_*.py"]


def pytest_report_header():
    return (
        "tapfield.jax: tested" if HERE else "tapfield.jax: not tested, JAX is not installed (./dev test jax)"
    )
