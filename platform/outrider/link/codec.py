"""Link messages as frames: a msgpack header, then one raw frame per tensor, in the order of the tables below.

Frames are little-endian and meant for the same host. Nothing is unpickled; every length is checked against
the shape its header declares, so a hostile peer gets a `LinkError` and no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import torch
from torch import Tensor

from outrider.errors import LinkError
from outrider.link.messages import DraftBlock, DrafterWelcome, DraftRound, TargetHello

__all__ = ["Buffer", "Bye", "Hello", "LinkMessage", "Refusal", "Welcome", "decode", "encode"]

Buffer = bytes | bytearray | memoryview

_Int63 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Shapes = tuple[tuple[_Int63, ...], ...]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    pass


class Hello(_Header, frozen=True, tag="hello"):
    """The target introduces itself; it also clears what the drafter held for this client."""

    target: TargetHello


class Welcome(_Header, frozen=True, tag="welcome"):
    """The drafter accepts."""

    drafter: DrafterWelcome


class Bye(_Header, frozen=True, tag="bye"):
    """The target leaves. Not answered."""


class Refusal(_Header, frozen=True, tag="refusal"):
    """An error of the tree in `outrider.errors`, by its code, with a message fit for the other side's log."""

    code: str
    message: str


class _RoundHeader(_Header, frozen=True, tag="round"):
    epoch: _Int63
    round: _Int63
    frees: tuple[_Int63, ...]
    shapes: _Shapes


class _BlockHeader(_Header, frozen=True, tag="block"):
    epoch: _Int63
    round: _Int63
    missing: tuple[_Int63, ...]
    draft_s: Annotated[float, msgspec.Meta(ge=0)]
    shapes: _Shapes


LinkMessage = Hello | Welcome | Bye | Refusal | DraftRound | DraftBlock

_ROUND_TENSORS: Final[dict[str, torch.dtype]] = {
    "append_keys": torch.int64,
    "append_starts": torch.int64,
    "append_counts": torch.int64,
    "rows": torch.float32,
    "propose_keys": torch.int64,
    "anchors": torch.int64,
    "positions": torch.int64,
    "temperature": torch.float32,
    "top_p": torch.float32,
    "seeds": torch.int64,
    "choices": torch.int64,
}
_BLOCK_TENSORS: Final[dict[str, torch.dtype]] = {"tokens": torch.int64, "confidence_logits": torch.float32}

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Hello | Welcome | Bye | Refusal | _RoundHeader | _BlockHeader)


def encode(message: LinkMessage) -> list[Buffer]:
    """The frames of one message; contiguous CPU tensors of the wire dtype are not copied."""
    if isinstance(message, DraftRound):
        tensors = [getattr(message, name).to("cpu", dtype) for name, dtype in _ROUND_TENSORS.items()]
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        header: msgspec.Struct = _RoundHeader(message.epoch, message.round, message.frees, shapes)
    elif isinstance(message, DraftBlock):
        tensors = [getattr(message, name).to("cpu", dtype) for name, dtype in _BLOCK_TENSORS.items()]
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        header = _BlockHeader(message.epoch, message.round, message.missing, message.draft_s, shapes)
    else:
        tensors, header = [], message
    return [_ENCODER.encode(header), *(tensor.contiguous().numpy().data for tensor in tensors)]


def decode(frames: Sequence[Buffer]) -> LinkMessage:
    """The message in `frames`, its tensors views of them. Raises `LinkError` on anything malformed."""
    if not frames:
        raise LinkError("a message without frames came over the draft link")
    try:
        header = _DECODER.decode(frames[0])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LinkError(f"a malformed header came over the draft link: {error}") from None
    if isinstance(header, _RoundHeader):
        tensors = _tensors(_ROUND_TENSORS, header.shapes, frames[1:])
        return DraftRound(header.epoch, header.round, header.frees, **tensors)
    if isinstance(header, _BlockHeader):
        tensors = _tensors(_BLOCK_TENSORS, header.shapes, frames[1:])
        return DraftBlock(header.epoch, header.round, missing=header.missing, draft_s=header.draft_s, **tensors)
    if len(frames) != 1:
        raise LinkError("a message without tensors came with extra frames over the draft link")
    message: LinkMessage = header
    return message


def _tensors(table: dict[str, torch.dtype], shapes: _Shapes, frames: Sequence[Buffer]) -> dict[str, Any]:
    if not len(table) == len(shapes) == len(frames):
        raise LinkError(f"{len(frames)} tensor frames and {len(shapes)} shapes came where {len(table)} belong")
    return {
        name: _tensor(name, dtype, shape, memoryview(frame).cast("B"))
        for (name, dtype), shape, frame in zip(table.items(), shapes, frames, strict=True)
    }


def _tensor(name: str, dtype: torch.dtype, shape: tuple[int, ...], frame: memoryview) -> Tensor:
    if len(shape) > 2 or math.prod(shape) * dtype.itemsize != frame.nbytes:
        raise LinkError(f"{name}: a frame of {frame.nbytes} bytes is not a {dtype} tensor of shape {list(shape)}")
    if not frame.nbytes:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(frame, dtype=dtype).reshape(shape)
