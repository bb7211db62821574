"""Where an op runs: Triton on a GPU it supports, the reference everywhere else, and what neither takes.

Every op checks its arguments before it chooses, so that a shape that one of its twins would refuse is refused by both.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

__all__ = ["UnsupportedArgument", "check_tensor", "interpreted", "use_triton"]

_log = logging.getLogger(__name__)

_LEAST_CAPABILITY = (8, 0)
"""bf16 products of the tensor cores, and asynchronous copies."""


class UnsupportedArgument(ValueError):
    """A kernel was given an argument it does not take; the message names it, what it is, and what would do."""

    def __init__(self, op: str, argument: str, reason: str) -> None:
        super().__init__(f"{op}: argument {argument} {reason}")
        self.op = op
        self.argument = argument


def check_tensor(
    op: str,
    argument: str,
    tensor: Tensor,
    shape: Sequence[int | None],
    dtypes: Sequence[torch.dtype],
    *,
    device: torch.device | None = None,
    contiguous: bool = False,
) -> None:
    """Raise UnsupportedArgument unless `tensor` has the shape (None: any size), a dtype of `dtypes`, the device, and
    elements of its last dimension side by side; of all dimensions where it must be `contiguous`.
    """
    wanted = ["?" if size is None else str(size) for size in shape]
    fits = tensor.ndim == len(shape) and all(
        size in (None, found) for size, found in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise UnsupportedArgument(op, argument, f"has shape {list(tensor.shape)}, not [{', '.join(wanted)}]")
    if tensor.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise UnsupportedArgument(op, argument, f"is {str(tensor.dtype).removeprefix('torch.')}, not {names}")
    if device is not None and tensor.device != device:
        raise UnsupportedArgument(op, argument, f"is on {tensor.device}, the others are on {device}")
    if contiguous and not tensor.is_contiguous():
        raise UnsupportedArgument(op, argument, f"has strides {list(tensor.stride())}; it must be contiguous")
    if tensor.ndim and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise UnsupportedArgument(op, argument, f"has a stride of {tensor.stride(-1)} in its last dimension, not 1")


def interpreted() -> bool:
    """Whether Triton interprets its kernels on the CPU in this process, as tests without a GPU have it do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def use_triton(op: str, device: torch.device) -> bool:
    """Whether the op's Triton kernel serves tensors of a device. Logs once where a GPU has to do without."""
    if device.type == "cpu":
        return False
    reason = _reason_against(device)
    if reason is not None:
        _tell_once(op, str(device), reason)
    return reason is None


@cache
def _reason_against(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"there are no kernels for {device.type} devices"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < _LEAST_CAPABILITY:
        return f"its compute capability is {capability[0]}.{capability[1]}, 8.0 is needed"
    return None


@cache
def _tell_once(op: str, device: str, reason: str) -> None:
    _log.warning("%s on %s goes on with the reference: %s", op, device, reason)
