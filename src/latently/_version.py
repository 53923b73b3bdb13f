"""The version of the package, in one place: the build reads this file, the package imports it."""

__all__ = ["__version__"]

__version__ = "0.1.0"
