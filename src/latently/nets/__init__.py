"""Networks: `net(in_shape, out_shape, **options) -> nn.Module`, one file each, no base class.

A network maps one flat batch axis: (B, *in_shape) to (B, *out_shape).
"""

from typing import Any

from latently._gather import gather

_found = gather(__name__, __path__)
__all__ = list(_found)
globals().update(_found)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"no network is called {name!r}; there are {', '.join(__all__)}")
