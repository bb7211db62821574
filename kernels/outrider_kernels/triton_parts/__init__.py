"""Device functions that several ops' Triton kernels share; imported by their `triton.py` only."""
