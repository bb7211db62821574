"""The check of a GPU, `python -m outrider.bench.gpu`: one script without Ray, and nothing to build.

Kernels against their references, kernels against what the device can do, then the engine with random weights of a real
model's shapes. Within eight minutes; what there is no time for is skipped and says so.
"""
