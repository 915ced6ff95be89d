# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's DeformableConvolution: sampling and a convolution to G channels."""

import common
import openvino_layer as layer

common.main(*layer.NAME.rsplit(" ", 1), {"forward": common.layer(layer)}, samples=False)
