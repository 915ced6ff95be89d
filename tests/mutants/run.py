# SPDX-License-Identifier: Apache-2.0
"""Makes the changes of mutants.toml one at a time and requires that the C++ tests fail: run.py [TEXT ...]

TEXT: only mutants whose file or reason holds one of them. Each core has a copy of the sources in build-mutants/, built
for one instruction set (x86: SSE4, where nothing of simd.h is left to the processor) with little optimisation. Exit
status: 0, 1 if a mutant survives, 2 if the list or the unchanged sources are at fault.
"""

import os
import queue
import shutil
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("CMakeLists.txt", "cmake", "include", "src", "tests")
PROGRAMS = {
    "test_kernels": "tests/test_kernels",
    "test_api": "tests/api/test_api",
    "test_execution": "tests/api/test_execution",
}
CONFIGURE = (
    "-G",
    "Ninja",
    "-DCMAKE_BUILD_TYPE=Debug",
    "-DCMAKE_CXX_FLAGS_DEBUG=-O1",
    "-DCMAKE_CXX_FLAGS=-DHWY_COMPILE_ONLY_STATIC",
    "-DTAPFIELD_TEST_STATIC=OFF",
)
TIMEOUT = 300  # seconds of one test program: whoever hangs has failed


class Fault(Exception):
    """The list or the unchanged sources are not as they must be."""


@dataclass(frozen=True)
class Mutant:
    file: str
    line: str
    change: str
    why: str
    first: str

    def place(self):
        """FILE:LINE. Fault unless the text is there exactly once."""
        lines = (ROOT / self.file).read_text().splitlines()
        at = [i for i, line in enumerate(lines, 1) if self.line in line]
        if len(at) != 1:
            raise Fault(
                f"{self.file} must hold this text once, not {len(at)} times (see mutants.toml):\n  {self.line}"
            )
        return f"{self.file}:{at[0]}"


class Tree:
    """A copy of the sources, and its build."""

    def __init__(self, path):
        self.path, self.build = path, path / "build"

    def run(self, *command, **more):
        return subprocess.run(
            command,
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **more,
        )

    def prepare(self):
        """Brings the copy up to date, touching what differs and nothing else, and builds it."""
        wanted = {
            p.relative_to(ROOT)
            for s in SOURCES
            for p in ((ROOT / s).rglob("*") if (ROOT / s).is_dir() else [ROOT / s])
            if p.is_file() and "__pycache__" not in p.parts
        }
        for name in wanted:
            if (
                not (self.path / name).exists()
                or (self.path / name).read_bytes() != (ROOT / name).read_bytes()
            ):
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, self.path / name)
        for source in SOURCES:
            for path in (self.path / source).rglob("*"):
                if path.is_file() and path.relative_to(self.path) not in wanted:
                    path.unlink()
        configured = self.run("cmake", "-S", ".", "-B", "build", *CONFIGURE)
        if configured.returncode:
            raise Fault(f"the unchanged sources do not configure:\n{configured.stdout[-3000:]}")
        if output := self.compile():
            raise Fault(f"the unchanged sources do not build:\n{output[-3000:]}")

    def compile(self):
        """Builds the tests; what the compiler says if it fails."""
        built = self.run("cmake", "--build", "build", "-j", "1", "--target", *PROGRAMS)
        return built.stdout if built.returncode else None

    def failure(self, program, *arguments, **environment):
        """How a test program fails, or None if it passes."""
        command = (self.build / PROGRAMS[program], "--gtest_brief=1", "--gtest_fail_fast", *arguments)
        try:
            ran = self.run(*command, timeout=TIMEOUT, env=os.environ | environment)
        except subprocess.TimeoutExpired:
            return f"{program} hangs"
        if ran.returncode == 0:
            return None
        failed = next((line for line in ran.stdout.splitlines() if line.startswith("[  FAILED  ] ")), "")
        return failed[13:].partition(" ")[0].rstrip(",") or f"{program} ends with {ran.returncode}"

    def fate(self, mutant):
        """How the tests fail with the mutant in place, or None: it survives. Fault if it does not compile."""
        path, text = self.path / mutant.file, (ROOT / mutant.file).read_text()
        path.write_text(text.replace(mutant.line, mutant.change))
        try:
            if output := self.compile():
                raise Fault(f"the mutant of {mutant.place()} does not compile:\n{output[-3000:]}")
            program, _, tests = mutant.first.partition(" ")
            return self.failure(program, f"--gtest_filter={tests}") or next(
                filter(None, map(self.failure, PROGRAMS)), None
            )
        finally:
            path.write_text(text)


def main(texts):
    console = Console()
    show = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    mutants = [
        Mutant(**m) for m in tomllib.loads((Path(__file__).parent / "mutants.toml").read_text())["mutant"]
    ]
    for mutant in mutants:
        mutant.place()
    if texts:
        mutants = [m for m in mutants if any(t in m.file or t in m.why for t in texts)]
    count = max(1, min(os.cpu_count(), len(mutants)))
    trees, free, survivors = (
        [Tree(ROOT / f"build-mutants/{i}") for i in range(count)],
        queue.SimpleQueue(),
        [],
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(count) as pool:
        task = progress.add_task("building and testing what is not changed", total=len(mutants))
        for _ in pool.map(Tree.prepare, trees):
            pass

        def unchanged(index):
            shard = {"GTEST_TOTAL_SHARDS": str(count), "GTEST_SHARD_INDEX": str(index)}
            for program in PROGRAMS:
                if how := trees[index].failure(program, **shard):
                    raise Fault(f"the unchanged sources fail: {how}")

        list(pool.map(unchanged, range(count)))
        for tree in trees:
            free.put(tree)
        progress.update(task, description="mutants killed")

        def judge(mutant):
            tree, start = free.get(), time.monotonic()
            try:
                how = tree.fate(mutant)
            finally:
                free.put(tree)
            if how is None:
                survivors.append(mutant)
            verdict = f"killed by {how}" if how else "SURVIVES"
            show(f"{mutant.place()}: {mutant.why}: {verdict}, {time.monotonic() - start:.0f} s")
            progress.advance(task)

        list(pool.map(judge, mutants))
    console.print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants killed")
    for mutant in survivors:
        show(f"survivor: {mutant.place()}: {mutant.why}\n  - {mutant.line}\n  + {mutant.change}")
    return 1 if survivors else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Fault as fault:
        print(f"mutants: {fault}", file=sys.stderr)
        sys.exit(2)
