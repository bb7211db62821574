"""Outrider: serve open-weight language models with DSpark speculative decoding, routed by policy."""

__all__ = ["__version__"]

__version__ = "0.1.0"
