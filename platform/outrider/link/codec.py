"""A link message as one frame: the header's length, a msgpack header, then its tensors in the order of the tables.

Between two rounds a model pass empties the caches, so every call costs many times what a warm loop shows: hence one
frame instead of one per tensor, and tensors through numpy, which takes fewer calls than torch.
Frames are little-endian, as both hosts have to be. Nothing is unpickled; every length is checked against
the shapes its header declares, so a hostile peer gets a `LinkError` and no more.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final

import msgspec
import numpy as np
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

_LENGTH_BYTES: Final = 4
_NUMPY: Final[dict[torch.dtype, np.dtype[Any]]] = {torch.int64: np.dtype(np.int64), torch.float32: np.dtype(np.float32)}
_ROUND_TENSORS: Final[dict[str, torch.dtype]] = {
    "append_keys": torch.int64,
    "append_starts": torch.int64,
    "append_counts": torch.int64,
    "rows": torch.float32,
    "append_tokens": torch.int64,
    "propose_keys": torch.int64,
    "anchors": torch.int64,
    "positions": torch.int64,
    "temperature": torch.float32,
    "top_p": torch.float32,
    "seeds": torch.int64,
    "choices": torch.int64,
    "top_k": torch.int64,
    "min_p": torch.float32,
    "rounds": torch.int64,
}
_BLOCK_TENSORS: Final[dict[str, torch.dtype]] = {
    "tokens": torch.int64,
    "confidence_logits": torch.float32,
    "q_tokens": torch.int64,
    "q_probs": torch.float32,
}

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Hello | Welcome | Bye | Refusal | _RoundHeader | _BlockHeader)


def encode(message: LinkMessage) -> bytes:
    """The frame of one message."""
    if isinstance(message, DraftRound):
        tensors = _wire(message, _ROUND_TENSORS)
        header: msgspec.Struct = _RoundHeader(message.epoch, message.round, message.frees, _shapes(tensors))
    elif isinstance(message, DraftBlock):
        tensors = _wire(message, _BLOCK_TENSORS)
        header = _BlockHeader(message.epoch, message.round, message.missing, message.draft_s, _shapes(tensors))
    else:
        tensors, header = [], message
    encoded = _ENCODER.encode(header)
    return b"".join(
        (len(encoded).to_bytes(_LENGTH_BYTES, "little"), encoded, *(tensor.numpy().data for tensor in tensors))
    )


def _wire(message: DraftRound | DraftBlock, table: dict[str, torch.dtype]) -> list[Tensor]:
    tensors = [getattr(message, name) for name in table]
    return [
        tensor
        if tensor.dtype is dtype and tensor.is_cpu and tensor.is_contiguous()
        else tensor.to("cpu", dtype).contiguous()
        for tensor, dtype in zip(tensors, table.values(), strict=True)
    ]


def _shapes(tensors: list[Tensor]) -> _Shapes:
    return tuple([tuple(tensor.shape) for tensor in tensors])


def decode(frame: Buffer) -> LinkMessage:
    """The message in `frame`, its tensors views of it. Raises `LinkError` on anything malformed."""
    view = memoryview(frame).cast("B")
    begin = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "little")
    if begin > view.nbytes:
        raise LinkError("a frame shorter than its header came over the draft link")
    try:
        header = _DECODER.decode(view[_LENGTH_BYTES:begin])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LinkError(f"a malformed header came over the draft link: {error}") from None
    body = view[begin:]
    if isinstance(header, _RoundHeader):
        tensors = _tensors(_ROUND_TENSORS, header.shapes, body)
        return DraftRound(header.epoch, header.round, header.frees, **tensors)
    if isinstance(header, _BlockHeader):
        tensors = _tensors(_BLOCK_TENSORS, header.shapes, body)
        return DraftBlock(header.epoch, header.round, missing=header.missing, draft_s=header.draft_s, **tensors)
    if body.nbytes:
        raise LinkError("a message without tensors came with a body over the draft link")
    message: LinkMessage = header
    return message


def _tensors(table: dict[str, torch.dtype], shapes: _Shapes, body: memoryview) -> dict[str, Any]:
    if len(table) != len(shapes) or any(len(shape) > 2 for shape in shapes):
        raise LinkError(f"shapes {shapes} came where {len(table)} tensors belong")
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, table.values(), strict=True)]
    if sum(sizes) != body.nbytes:
        raise LinkError(f"a body of {body.nbytes} bytes does not hold tensors of shapes {shapes}")
    tensors, begin = {}, 0
    for (name, dtype), shape, size in zip(table.items(), shapes, sizes, strict=True):
        try:
            tensors[name] = torch.from_numpy(np.ndarray(shape, _NUMPY[dtype], body, begin))
        except ValueError:  # an empty tensor with a dimension beyond what an array can have
            raise LinkError(f"{name}: {list(shape)} is no shape of a tensor") from None
        begin += size
    return tensors
