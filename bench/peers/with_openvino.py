# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's DeformableConvolution: sampling and a convolution to G channels."""

import common

common.main_of_layer("OpenVINO")
