"""Networks: `net(in_shape, out_shape, **options) -> nn.Module`, with no base class.

A network maps one flat batch axis: (B, *in_shape) to (B, *out_shape).
"""

from latently.nets.mlp import MLP

__all__ = ["MLP"]
