# SPDX-License-Identifier: Apache-2.0
"""examples/ascend_graph, built against the stand-in for CANN (ascend_graph_2201, ascend_graph_3510 in the folder
TAPFIELD_ASCEND_EXAMPLES): from `tapfield golden` to the exit status."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tapfield.cli import main

PROGRAMS = sorted(Path(os.environ["TAPFIELD_ASCEND_EXAMPLES"]).glob("ascend_graph_[0-9]*[0-9]"))


@pytest.fixture
def golden(tmp_path):
    case = ["--case", "cann-grad", "--dtype", "float16", "--format", "bin", "--pass", "grad"]
    assert main(["golden", str(tmp_path), *case]) == 0
    return tmp_path


def run(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True)


def test_both_products_have_one():
    assert [p.name for p in PROGRAMS] == ["ascend_graph_2201", "ascend_graph_3510"]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
def test_judges_every_element(program, golden):
    done = run(program, golden)
    assert done.returncode == 0, done.stderr
    assert "grad_x: 78336 elements, 0 beyond" in done.stdout
    assert "grad_offsets: 155520 elements, 0 beyond" in done.stdout

    # One element that is not what it must be.
    file = golden / "grad.grad_offsets.exact.bin"
    values = np.fromfile(file)
    values[1234] += 0.1
    values.tofile(file)
    done = run(program, golden)
    assert done.returncode == 1
    assert "grad_offsets: 155520 elements, 1 beyond" in done.stdout
    assert "the first at 1234" in done.stdout


def test_says_what_it_cannot_use(golden):
    assert run(PROGRAMS[0]).returncode == 2
    done = run(PROGRAMS[0], golden / "nothing")
    assert done.returncode == 2
    assert "cannot read" in done.stderr
    (golden / "x.bin").write_bytes(b"12")
    done = run(PROGRAMS[0], golden)
    assert done.returncode == 2
    assert "x.bin must have 156672 bytes but has 2" in done.stderr
