# SPDX-License-Identifier: Apache-2.0
"""The list of mutants keeps up with the sources; ./dev mutants, which runs them, takes too long for every day."""

import importlib.util
import tomllib
from pathlib import Path

MUTANTS = Path(__file__).resolve().parents[1] / "mutants"


def test_every_mutant_names_a_line_that_is_there_once():
    spec = importlib.util.spec_from_file_location("run_mutants", MUTANTS / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    mutants = tomllib.loads((MUTANTS / "mutants.toml").read_text())["mutant"]
    assert len(mutants) > 40
    for mutant in mutants:
        run.Mutant(**mutant).place()
