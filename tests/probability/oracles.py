"""What the tests of distributions share: every mask, every row, integrals and a comparison."""

import math

import torch


def close(found, wanted, tolerance=1e-9):
    """Assert equality in float64, whatever the type of either."""
    torch.testing.assert_close(
        torch.as_tensor(found).detach().double(),
        torch.as_tensor(wanted).detach().double(),
        rtol=tolerance,
        atol=tolerance,
    )


def subsets(cells):
    """Every mask of a row, (2^cells, cells)."""
    return torch.cartesian_prod(*[torch.tensor([True, False])] * cells).view(-1, cells)


def all_rows(values, cells):
    """Every row of some values, (values^cells, cells)."""
    return torch.cartesian_prod(*[torch.as_tensor(values).double()] * cells).view(-1, cells)


def quadrature(log_density, lows, highs, points=401):
    """A density on the grid of a box, the grid, and the volume of one of its cells."""
    axes = [
        torch.linspace(a, b, points, dtype=torch.float64) for a, b in zip(lows, highs, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    p = log_density(grid).exp()
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    return p, grid, cell


def shaken(module, by=0.5):
    """A module with noise added to its parameters."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(by * torch.randn_like(p))
    return module
