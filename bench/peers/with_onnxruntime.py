# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's DeformConv: sampling and a convolution to G channels."""

import common

common.main_of_layer("ONNX Runtime")
