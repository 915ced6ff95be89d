# SPDX-License-Identifier: Apache-2.0
"""C++ of the kernels in a PTX file, for the machine that runs CUDA's threads on the CPU.

    python translate.py FILE.ptx FILE.cpp

A kernel becomes a function, a register a variable of its bits, an instruction a call of the function of its name in
instructions.h: add.s32 is add_<s32>. What is not known there does not compile. The host's kernel is found by its
symbol, which is the same for both compilers outside unnamed namespaces.
"""

import re
import sys
from pathlib import Path

OPERAND = re.compile(r"\{[^}]*\}|\[[^]]*\]|[^,\s][^,]*")


def value(text):
    """An operand that is read, as an expression of its bits."""
    text = text.strip()
    if m := re.fullmatch(r"%(tid|ntid|ctaid|nctaid)\.x", text):
        return {"tid": "threadIdx", "ntid": "blockDim", "ctaid": "blockIdx", "nctaid": "gridDim"}[m[1]] + ".x"
    if m := re.fullmatch(r"0[fFdD]([0-9A-Fa-f]+)", text):
        return f"0x{m[1]}ull"
    if re.fullmatch(r"-?\d+", text):
        return f"{int(text) % 2**64:#x}ull"
    if text.startswith("%"):
        return text.replace("%", "_")
    if text == "tmp":
        return text  # a register that takes a half that is not wanted
    if re.fullmatch(r"\w+_param_0", text):
        return "parameters"
    if text.endswith("shared_blockE"):
        return "0u"  # the only array in shared memory
    raise ValueError(f"unknown operand {text}")


def values(text):
    """Those of {a, b} or of a."""
    text = text.strip()
    return [value(part) for part in text.strip("{}").split(",")]


def address(text):
    base, _, offset = text.strip("[] ").partition("+")
    return f"{value(base)} + {int(offset)}" if offset else value(base)


def access(opcode):
    """ld.global.cs.v2.u32 -> the template's arguments."""
    parts = opcode.split(".")
    space = next((p for p in parts if p in ("global", "shared", "param")), "generic")
    return f"Space::{space}, {parts[-1]}"


def statement(opcode, operands, line):
    """One instruction without its predicate."""
    kind, *middle, suffix = opcode.split(".") if "." in opcode else (opcode, "")
    name = f"setp_<{middle[0]}, {suffix}>" if kind == "setp" else f"{'_'.join([kind, *middle])}_<{suffix}>"
    if kind == "bra":
        return f"goto {operands[0].strip('$')};"
    if kind == "ret":
        return "return;"
    if opcode == "bar.sync":
        return f"bar_sync({line});"
    if opcode == "bar.warp.sync":
        return f"bar_warp_sync({value(operands[0])});"
    if kind == "ld":
        return f"load<{access(opcode)}>({address(operands[1])}, {', '.join(values(operands[0]))});"
    if kind == "st":
        return f"store<{access(opcode)}>({address(operands[0])}, {', '.join(values(operands[1]))});"
    if kind == "atom":
        before, added = values(operands[0]), values(operands[2])
        return f"add_atomically<{access(opcode)}>({address(operands[1])}, {{{', '.join(added)}}}, {', '.join(before)});"
    if kind == "shfl":
        result, _, within = operands[0].partition("|")
        arguments = ", ".join(value(o) for o in operands[1:])
        return f"{value(within)} = {name}({value(result)}, {arguments});"
    if kind == "mov":
        if operands[0].startswith("{"):
            return f"unpack({value(operands[1])}, {', '.join(values(operands[0]))});"
        if operands[1].startswith("{"):
            return f"pack({value(operands[0])}, {', '.join(values(operands[1]))});"
        return f"{value(operands[0])} = {value(operands[1])};"
    return f"{value(operands[0])} = {name}({', '.join(value(o) for o in operands[1:])});"


def instruction(text, line):
    """Of one PTX instruction."""
    predicate = re.match(r"@(!?)(%\w+)\s+", text)
    if predicate:
        text = text[predicate.end() :]
    opcode, _, rest = text.rstrip(";").partition(" ")
    made = statement(opcode, [o.strip() for o in OPERAND.findall(rest)], line)
    return f"if ({predicate[1]}{value(predicate[2])}) {made}" if predicate else made


def registers(text):
    """.reg .b32 %r<159>; -> declarations. PTX counts from 1; none holds a value that somebody could rely on."""
    bits, name, count = re.fullmatch(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>;", text).groups()
    kind = "pred" if bits == "pred" else f"b{bits[1:]}"
    poison = "false" if kind == "pred" else f"{kind}(-1)"
    return (
        f"{kind} " + ", ".join(f"_{name}{i} = {poison}" for i in range(1, int(count))) + ";"
        if int(count) > 1
        else ""
    )


def translate(ptx):
    out = ['#include "instructions.h"', "namespace ptx_on_cpu {", "namespace {"]
    names, inside, block, blocks = [], False, [], 0

    def end_block():
        nonlocal blocks
        if block:
            out.append(f"enter({blocks}, {len(block)});")
            out.extend(block)
            block.clear()
            blocks += 1

    for line, text in enumerate(ptx.splitlines(), 1):
        text = re.sub(r"//.*", "", text).replace("\t", " ").strip()
        if m := re.search(r"\.entry (\w+)\(", text):
            names.append(m[1])
            out.append(f"void kernel{len(names)}(b64 parameters) {{ b16 tmp;")
        elif text == "{":
            inside = True
        elif text == "}":
            inside = False
            end_block()
            out.append("}")
        elif not inside or not text or text.startswith(".pragma"):
            pass
        elif text.startswith(".reg"):
            out.append(registers(text))
        elif m := re.fullmatch(r"\$(\w+):", text):
            end_block()
            out.append(f"{m[1]}:;")
        else:
            text = re.sub(r"^\{ *(\.reg \.b16 tmp; )?|\s*\}$", "", text)
            block.append(instruction(re.sub(r"\s+", " ", text), line))
            if re.search(r"\bbra\b", text):
                end_block()
    for i, name in enumerate(names, 1):
        out.append(f'extern "C" void host{i}() asm("{name}");')
        out.append(f"const Kernel registered{i}(host{i}, kernel{i});")
    return "\n".join([*out, "}", "}", ""])


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(translate(Path(sys.argv[1]).read_text(encoding="utf-8")), encoding="utf-8")
