r"""Normalizing flows: bijections f with a Jacobian of known determinant, made of nets.

A flow is a small frozen object, such as `NSF(transforms=2)`, that builds the bijection
`y = f(x; c)` of rows of a shape. It maps data to noise or noise to data:

    FlowPrior:   eps = f(z),        log p(z) = log N(f(z); 0, I) + log |det df/dz|;
    FlowNormal:  z = m + s f(eps),  log q(z) = log N(eps; 0, I) - log |det s df/deps|.

Flows of vectors take rows of any shape as vectors; flows of images see channels, rows and columns.
One file each, gathered by `__all__`. Sources: Rezende, Mohamed, "Variational Inference with
Normalizing Flows", 2015; Papamakarios et al., "Normalizing Flows for Probabilistic Modeling and
Inference", 2021.
"""

from typing import Any

from latently._gather import gather
from latently.probability.flows.base import (
    Bijection,
    Flow,
    FlowDistribution,
    check_flow,
    log_normal,
)

_found = gather(__name__, __path__, skip=("base",))
__all__ = ["Bijection", "Flow", "FlowDistribution", "check_flow", "log_normal", *_found]
globals().update(_found)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"no flow is called {name!r}; there are {', '.join(__all__)}")
