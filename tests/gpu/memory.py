# SPDX-License-Identifier: Apache-2.0
"""NumPy arrays to tensors of library.py and back: in a GPU's memory, through PyTorch, or in place."""

import numpy as np

CODES = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}


class OnGpu:
    """A dense copy in the current GPU's memory."""

    def __init__(self, array):
        import torch

        bits = array.view(np.int16) if array.dtype.name == "bfloat16" else array
        self.dtype, self.code = array.dtype, CODES[array.dtype.name]
        self.tensor = torch.from_numpy(np.ascontiguousarray(bits)).cuda()
        self.shape, self.strides = list(self.tensor.shape), list(self.tensor.stride())
        self.address = self.tensor.data_ptr()

    def numpy(self):
        return self.tensor.cpu().numpy().view(self.dtype)


class InPlace:
    """The array itself: for the CUDA backend's stand-in (tests/cuda_on_cpu)."""

    def __init__(self, array):
        self.array, self.code = np.ascontiguousarray(array), CODES[array.dtype.name]
        self.shape, self.strides = list(array.shape), [s // array.itemsize for s in self.array.strides]
        self.address = self.array.ctypes.data

    def numpy(self):
        return self.array
