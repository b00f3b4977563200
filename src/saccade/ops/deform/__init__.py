r"""Deformable convolution: every kernel tap is moved by its own offset and scaled by a mask.

    y(p) = Σ_k w_k · x(p·s − p₀ + k·d + Δ_k(p)) · m_k(p) + b              s stride, p₀ padding, d dilation
    x(q) = Σ_r max(0, 1 − |q_y − r_y|) · max(0, 1 − |q_x − r_x|) · x(r)   r the pixels of the map, zero outside

Signature, channel order and derivatives are those of ``torchvision.ops.deform_conv2d``.

Sources: Dai et al., ICCV 2017, arXiv:1703.06211 (no mask); Zhu et al., CVPR 2019, arXiv:1811.11168 (mask).
"""

from saccade.ops.deform.convolution import deform_conv2d
from saccade.ops.deform.definition import deform_conv2d_definition

__all__ = ["deform_conv2d", "deform_conv2d_definition"]
