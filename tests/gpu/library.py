# SPDX-License-Identifier: Apache-2.0
"""libtapfield.so through its C interface, with ctypes: for a machine that has PyTorch and little else.

A tensor here is anything with .address, .shape, .strides (in elements) and .code, its dtype's.
"""

import ctypes
from ctypes import POINTER, Structure, byref, c_char_p, c_int32, c_int64, c_size_t, c_void_p

CPU, CUDA = 0, 1


class CTensor(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("data", c_void_p),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("rank", c_int32),
        ("dtype", c_int32),
        ("device_type", c_int32),
        ("device_index", c_int32),
        ("read_only", c_int32),
    ]


class CAttributes(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("ksize", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("pads", POINTER(c_int64)),
        ("dilations", POINTER(c_int64)),
        ("data_format", c_char_p),
        ("border", c_char_p),
        ("deformable_groups", c_int64),
        ("unmodulated", c_int32),
    ]


class CExecution(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("parallel_for", c_void_p),
        ("pool", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
        ("stream", c_void_p),
        ("backend", c_char_p),
        ("threads", c_int32),
        ("deterministic", c_int32),
    ]


def _list(values):
    return (c_int64 * len(values))(*values)


class Library:
    """The operators, on tensors of one device."""

    def __init__(self, path, device_type=CUDA):
        self.c = ctypes.CDLL(str(path))
        self.c.tapfield_last_error.restype = c_char_p
        self.device_type = device_type

    def _tensor(self, t):
        return CTensor(
            ctypes.sizeof(CTensor),
            t.address,
            _list(t.shape),
            _list(t.strides),
            len(t.shape),
            t.code,
            self.device_type,
            0,
            0,
        )

    def __call__(self, which, tensors, attributes, **execution):
        """which: "forward", "grad" or "grad_grad"; tensors: its arguments in the C interface's order."""
        a = attributes
        c_attributes = CAttributes(
            ctypes.sizeof(CAttributes),
            _list(a["ksize"]),
            _list(a["strides"]),
            _list(a["pads"]),
            _list(a["dilations"]),
            a["data_format"].encode(),
            a["border"].encode(),
            a["deformable_groups"],
            not a["modulated"],
        )
        c_execution = CExecution(size=ctypes.sizeof(CExecution), **execution)
        inputs = {"forward": 2, "grad": 3, "grad_grad": 5}[which]
        arguments = [byref(self._tensor(t)) for t in tensors]
        function = getattr(self.c, "tapfield_deformable_offsets" + {"forward": ""}.get(which, "_" + which))
        if function(*arguments[:inputs], byref(c_attributes), *arguments[inputs:], byref(c_execution)):
            raise RuntimeError(self.c.tapfield_last_error().decode())
