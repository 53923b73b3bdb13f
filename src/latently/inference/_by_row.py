"""Random numbers of many rows at once, each row's from a generator of its own.

What is drawn of a row in a block is to the number what would be drawn of it alone: every random
operation of a block, of shape (K, B, ...), is carried out once for each row, on that row's part,
with that row's generator. All else is computed for the block. A draw whose rows cannot be told
apart, because a model folds them into another shape, raises `Inseparable` before any number is
used: such rows are then treated one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Inseparable", "RowNoise"]

_State = tuple[Tensor, ...]
_MULTINOMIAL = torch.ops.aten.multinomial.default


class Inseparable(Exception):
    """The rows of a draw cannot be told apart."""


class RowNoise:
    """Generators of B rows, at the point that each has reached.

    Args:
        keys: a seed for each row.
        device: where rows and draws are.
    """

    def __init__(self, keys: Sequence[int], device: torch.device) -> None:
        self._devices = [torch.device("cpu")] + ([] if device.type == "cpu" else [device])
        seeds = {key: self._seeded(key) for key in set(keys)}
        self._states: list[_State] = [seeds[key] for key in keys]

    def __len__(self) -> int:
        return len(self._states)

    def copy(self) -> RowNoise:
        """The generators as they stand, to go on by themselves."""
        other = copy(self)
        other._states = list(self._states)
        return other

    @contextmanager
    def of(self, row: int) -> Iterator[None]:
        """Draws inside are that row's; the global generators are as before afterwards."""
        kept = self._now()
        self._set(self._states[row])
        try:
            yield
        finally:
            self._states[row] = self._now()
            self._set(kept)

    def rand(self, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """U(0, 1), (count, B)."""
        with _ByRow(self, (count, len(self))):
            return torch.rand(count, len(self), dtype=dtype, device=device)

    def latents(self, q: Any, samples: int) -> Tensor:
        """`samples` draws of q, of batch shape (B,): what `Model.infer` takes as its `draw`."""
        if tuple(q.batch_shape) != (len(self),):
            raise Inseparable
        with _ByRow(self, (samples, len(self))):
            if q.has_rsample:
                return q.rsample(torch.Size((samples,)))
            return q.sample(torch.Size((samples,)))

    def sample(self, d: Any) -> Tensor:
        """One draw of every cell of d, of batch shape (K, B) and independent cells."""
        if len(d.batch_shape) != 2 or d.batch_shape[1] != len(self):
            raise Inseparable
        if not hasattr(d, "cell_log_prob"):  # others may sort rows before they draw
            raise Inseparable
        with _ByRow(self, tuple(d.batch_shape)):
            return d.sample()

    def repeated(self, d: Any, samples: int) -> Tensor:
        """`samples` draws of d, of batch shape (1, B)."""
        if tuple(d.batch_shape) != (1, len(self)):
            raise Inseparable
        with _ByRow(self, (samples, len(self))):
            return d.sample(torch.Size((samples,)))

    def _seeded(self, key: int) -> _State:
        return tuple(
            torch.Generator(device).manual_seed(key).get_state() for device in self._devices
        )

    def _now(self) -> _State:
        rest = (getattr(torch, d.type).get_rng_state(d) for d in self._devices[1:])
        return (torch.default_generator.get_state(), *rest)

    def _set(self, state: _State) -> None:
        torch.default_generator.set_state(state[0])
        for device, own in zip(self._devices[1:], state[1:], strict=True):
            getattr(torch, device.type).set_rng_state(own, device)


class _ByRow(TorchDispatchMode):
    """Random operations row by row; `lead` is (K, B), which their shapes begin with."""

    def __init__(self, noise: RowNoise, lead: tuple[int, int]) -> None:
        super().__init__()
        self.noise, self.lead = noise, lead

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if func is _MULTINOMIAL:
            return self._categories(*args, **kwargs)
        if not any(self._leads(value) for value in args):
            raise Inseparable
        drawn = self._each(lambda b: func(*(self._part(value, b) for value in args), **kwargs))
        return args[0] if func._schema.is_mutable else torch.cat(drawn, 1)

    def _each(self, function: Callable[[int], Tensor]) -> list[Tensor]:
        found = []
        for b in range(len(self.noise)):
            with self.noise.of(b):
                found.append(function(b))
        return found

    def _leads(self, value: Any) -> bool:
        shape = value.shape if isinstance(value, Tensor) else value
        return isinstance(shape, list | tuple) and tuple(shape[:2]) == self.lead

    def _part(self, value: Any, b: int) -> Any:
        """Row b of an argument: of a tensor, or of a shape."""
        if not self._leads(value):
            return value
        if isinstance(value, Tensor):
            return value[:, b : b + 1]
        return [value[0], 1, *value[2:]]

    def _categories(
        self, probs: Tensor, count: int, replacement: bool = False, **options: Any
    ) -> Tensor:
        """Categories of flat probabilities: (K B m, L) drawn once, or (B m, L) drawn K times."""
        samples, rows = self.lead
        flat, levels = len(probs), probs.shape[-1]
        whole = samples if count == 1 else 1
        if count not in (1, samples) or flat % (whole * rows):
            raise Inseparable
        parts = probs.view(whole, rows, -1, levels)

        def drawn(b: int) -> Tensor:
            own = parts[:, b].reshape(-1, levels)
            found = torch.multinomial(own, count, replacement, **options)
            return found.view(whole, 1, -1, count)

        return torch.cat(self._each(drawn), 1).view(flat, count)
