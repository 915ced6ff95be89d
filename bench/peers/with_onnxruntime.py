# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's DeformConv: sampling and a convolution to G channels."""

import common
import onnxruntime_layer as layer

common.main(*layer.NAME.rsplit(" ", 1), {"forward": common.layer(layer)}, samples=False)
