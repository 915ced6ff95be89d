# SPDX-License-Identifier: Apache-2.0
"""The command line: tapfield demo | golden | verify | info, also python -m tapfield. See docs/cli.md."""

import argparse
import sys


def parser():
    top = argparse.ArgumentParser(prog="tapfield", description="DeformableOffsets, its gradient and its second derivative")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="bend a photograph and straighten it by gradient descent on offsets")
    demo.add_argument("image", nargs="?", metavar="IMAGE", help="default: matplotlib's photograph of Grace Hopper")
    demo.add_argument("--out", default="./demo.png", metavar="PNG", help="the picture to write (default ./demo.png)")

    commands.add_parser("info", help="version, backends and why each can or cannot run, SIMD target, threads")
    return top


def info():
    from rich.console import Console
    from rich.table import Table

    import tapfield

    console = Console()
    console.print(f"tapfield {tapfield.__version__}, {tapfield.get_num_threads()} threads")
    table = Table("backend", "device", "can run", "why")
    for backend in tapfield.backends():
        table.add_row(backend.name, backend.device, "yes" if backend.available else "no", backend.reason)
    console.print(table)
    return 0


def main(argv=None):
    """Runs a command; returns its exit status: 0, 1 (verify: over the bound), 2 (unusable arguments or files)."""
    arguments = vars(parser().parse_args(argv))
    command = arguments.pop("command")
    try:
        if command == "demo":
            from tapfield import demo

            return demo.main(**arguments)
        return info()
    except (OSError, ValueError, TypeError) as error:
        print(f"tapfield {command}: {error}", file=sys.stderr)
        return 2
