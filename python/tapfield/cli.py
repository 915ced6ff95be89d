# SPDX-License-Identifier: Apache-2.0
"""The command line: tapfield demo | golden | verify | info, also python -m tapfield. See docs/cli.md."""

import argparse
import sys


CASES = ("dcn-c3", "rectangular", "v1-nchw", "cann-grad", "cann-forward", "cann-nchw", "worked-example")


def numbers(text):
    """1,2,3 as a tuple of integers."""
    try:
        return tuple(int(t) for t in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be integers like 1,2,3 but is {text!r}") from None


def parser():
    top = argparse.ArgumentParser(
        prog="tapfield", description="DeformableOffsets, its gradient and its second derivative"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo", help="bend a photograph and straighten it by gradient descent on offsets"
    )
    demo.add_argument(
        "image", nargs="?", metavar="IMAGE", help="default: matplotlib's photograph of Grace Hopper"
    )
    demo.add_argument(
        "--out", default="./demo.png", metavar="PNG", help="the picture to write (default ./demo.png)"
    )

    golden = commands.add_parser(
        "golden", help="write inputs and expected outputs of the operators, as files"
    )
    golden.add_argument("directory", metavar="DIR")
    golden.add_argument("--case", choices=CASES, help="sizes by name, instead of --shape and the attributes")
    golden.add_argument("--shape", type=numbers, metavar="N,H,W,C")
    golden.add_argument("--ksize", type=numbers, metavar="KH,KW", help="default 3,3")
    golden.add_argument("--strides", type=numbers, metavar="H,W", help="default 1,1")
    golden.add_argument("--pads", type=numbers, metavar="TOP,BOTTOM,LEFT,RIGHT", help="default 1,1,1,1")
    golden.add_argument("--dilations", type=numbers, metavar="H,W", help="default 1,1")
    golden.add_argument("--deformable-groups", type=int)
    golden.add_argument("--v1", dest="modulated", action="store_const", const=False, help="no mask plane")
    golden.add_argument("--border", choices=("open", "closed"))
    golden.add_argument("--data-format", choices=("NHWC", "NCHW"), help="layout of the files (default NHWC)")
    golden.add_argument("--dtype", choices=("float16", "bfloat16", "float32", "float64"), default="float32")
    golden.add_argument("--format", choices=("npy", "bin"), default="npy")
    golden.add_argument(
        "--backend", default="reference", help="who computes what is expected (default reference)"
    )
    golden.add_argument("--seed", type=int, default=0)
    golden.add_argument(
        "--pass", dest="passes", choices=("forward", "grad", "grad_grad", "all"), default="all"
    )

    verify = commands.add_parser("verify", help="compare a kernel's outputs with what golden wrote")
    verify.add_argument("directory", metavar="DIR", help="what golden wrote")
    verify.add_argument(
        "--against", metavar="DIR2", help="where the outputs are (default: DIR, as NAME.actual.npy)"
    )
    verify.add_argument("--json", dest="json_output", action="store_true", help="for programs")

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
        if command == "golden":
            from tapfield import golden

            return golden.main(**arguments)
        if command == "verify":
            from tapfield import verify

            return verify.main(**arguments)
        return info()
    except (OSError, ValueError, TypeError) as error:
        print(f"tapfield {command}: {error}", file=sys.stderr)
        return 2
