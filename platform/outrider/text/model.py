"""A model directory's text side: tokenizer, chat template, end tokens, context length."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outrider.errors import InvalidRequest, ModelDirectoryError
from outrider.text.detokenize import (
    ByteLevelDetokenizer,
    Detokenizer,
    MarkedDetokenizer,
    WindowDetokenizer,
    token_bytes,
)
from outrider.text.special import SpecialText
from outrider.text.tools import ToolFormat, detect

__all__ = ["TextModel"]

BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
"""How SentencePiece writes a byte of a character it has no piece for."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


@dataclass(frozen=True, slots=True)
class TextModel:
    """Everything between a tenant's text and a model's token ids; safe to share between requests.

    name: the directory's name; fingerprint: sha256 hex of tokenizer and chat template; equal fingerprints encode every
    prompt alike.
    """

    name: str
    vocab_size: int
    context_tokens: int
    eos_token_ids: tuple[int, ...]
    fingerprint: str
    _tokenizer: Any = field(repr=False)
    _pieces: tuple[bytes, ...] | None = field(repr=False)
    _special: SpecialText = field(repr=False)

    @classmethod
    def load(cls, directory: str | Path) -> TextModel:
        """Read a local transformers directory; nothing is downloaded. Raises ModelDirectoryError."""
        root = Path(directory)
        if not root.is_dir():
            raise ModelDirectoryError(f"model directory {root} does not exist")
        config = _read_json(root / "config.json", required=True)
        tokenizer = _load_tokenizer(root)
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        serialised: str = tokenizer.backend_tokenizer.to_str()
        digest = hashlib.sha256(f"{serialised}\n{tokenizer.chat_template}".encode()).hexdigest()
        vocab_size = _positive_int(config, "vocab_size", root)
        return cls(
            name=root.name,
            vocab_size=vocab_size,
            context_tokens=_positive_int(config, "max_position_embeddings", root),
            eos_token_ids=_eos_token_ids(root, config, tokenizer),
            fingerprint=digest,
            _tokenizer=tokenizer,
            _pieces=_byte_pieces(tokenizer.backend_tokenizer, json.loads(serialised).get("decoder"), vocab_size),
            _special=SpecialText(tokenizer.backend_tokenizer),
        )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of plain text, with the special tokens the tokenizer puts around a text."""
        return self._ids(text, add_special_tokens=add_special_tokens)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        opening: str = "",
        generation_prompt: bool = True,
    ) -> list[int]:
        """Token ids of a conversation ({role, content}, …) up to where the assistant's answer begins.

        tools: OpenAI's tool objects; opening: what the answer is made to begin with. Special tokens are the template's
        own: the tokenizer adds none, and text that spells one stays text. Raises InvalidRequest when the model has no
        template or its template refuses the conversation.
        """
        from jinja2 import TemplateError

        if not self.has_chat_template:
            raise InvalidRequest(
                f"model {self.name} has no chat template: use /v1/completions, or put a chat_template.jinja beside its "
                "tokenizer.json",
                param="messages",
            )
        hidden: dict[str, str] = {}
        try:
            prompt: str = self._tokenizer.apply_chat_template(
                self._special.hide(list(messages), hidden),
                tools=self._special.hide(list(tools), hidden) if tools else None,
                add_generation_prompt=generation_prompt,
                tokenize=False,
            )
        except (TemplateError, TypeError) as error:
            raise InvalidRequest(
                f"this model's chat template refuses the conversation: {error}", param="messages"
            ) from error
        return self._special.encode(prompt + opening, hidden, lambda part: self._ids(part, add_special_tokens=False))

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode_chat` can say anything; a base model has none and serves completions."""
        return bool(self._tokenizer.chat_template)

    @property
    def tool_format(self) -> ToolFormat | None:
        """How the chat template has tool calls written; None where it knows no tools, or in a way unknown here."""
        template = self._tokenizer.chat_template
        if isinstance(template, Mapping):
            template = template.get("tool_use") or template.get("default")
        return detect(template or "")

    @property
    def used_tokens(self) -> int:
        """One more than the highest id that a token uses; ids from here to `vocab_size` mean nothing."""
        vocabulary: dict[str, int] = self._tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
        return 1 + max(vocabulary.values())

    @property
    def special_ids(self) -> Set[int]:
        """Tokens that control and are not text."""
        return self._special.ids

    def token_id(self, token: str) -> int | None:
        """The id of one token by its text, None when there is no such token."""
        found: int | None = self._tokenizer.backend_tokenizer.token_to_id(token)
        return found

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of all ids at once, special tokens skipped or by their names."""
        detokenizer = self.detokenizer(self._special.names if special else ())
        return detokenizer.push(ids) + detokenizer.flush()

    def detokenizer(self, marks: Sequence[str] = ()) -> Detokenizer:
        """A fresh incremental detokeniser for one choice; marks: special tokens that are text all the same."""
        shown = {found: mark for mark in marks if (found := self.token_id(mark)) is not None}
        plain = self._plain_detokenizer()
        return MarkedDetokenizer(plain, shown) if shown.keys() & self._special.ids else plain

    def token_text(self, token: int) -> bytes:
        """The bytes one token stands for by itself, a special one for its name; empty for an id that means nothing."""
        special = self._special.text_of(token)
        if special is not None:
            return special.encode()
        if self._pieces is not None:
            return self._pieces[token] if 0 <= token < len(self._pieces) else b""
        backend = self._tokenizer.backend_tokenizer
        piece: str | None = backend.id_to_token(token)
        if piece is None:
            return b""
        if BYTE_PIECE.fullmatch(piece):
            return bytes([int(piece[3:5], 16)])
        # Decoders treat the first token of a text differently, so it stands behind another one.
        return str(backend.decoder.decode(["a", piece])).removeprefix("a").encode() if backend.decoder else b""

    def _plain_detokenizer(self) -> Detokenizer:
        if self._pieces is not None:
            return ByteLevelDetokenizer(self._pieces)
        backend = self._tokenizer.backend_tokenizer
        return WindowDetokenizer(lambda ids: str(backend.decode(ids, skip_special_tokens=True)))

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Straight to the Rust tokenizer, which only reads itself, so threads may share it.

        Its batch call drops the GIL and skips offsets: measured 72 ms against 161 ms for 240,000 characters, with
        the event loop running on; `encode` stops it.
        """
        batch = self._tokenizer.backend_tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = batch[0].ids
        return ids


def _load_tokenizer(root: Path) -> Any:
    from transformers import AutoTokenizer

    # Without any of them transformers makes an empty tokenizer for many families: no text would have tokens.
    if not any((root / file).is_file() for file in _TOKENIZER_FILES):
        raise ModelDirectoryError(f"{root} holds no tokenizer: there is no tokenizer.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(root, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError … for the same missing file
        raise ModelDirectoryError(f"{root} holds no tokenizer that transformers can load: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelDirectoryError(f"{root}: only `tokenizers` tokenizers (tokenizer.json) are supported")
    return tokenizer


def _byte_pieces(backend: Any, decoder: Mapping[str, Any] | None, vocab_size: int) -> tuple[bytes, ...] | None:
    """Bytes of every token id when the tokenizer is byte-level, else None."""
    if decoder is None or decoder.get("type") != "ByteLevel":
        return None
    special = {index for index, added in backend.get_added_tokens_decoder().items() if added.special}
    tokens = ("" if index in special else backend.id_to_token(index) for index in range(vocab_size))
    return tuple(token_bytes(token or "") for token in tokens)


def _eos_token_ids(root: Path, config: Mapping[str, Any], tokenizer: Any) -> tuple[int, ...]:
    """End tokens as generation sees them: generation_config.json, else config.json, else the tokenizer's."""
    generation = _read_json(root / "generation_config.json", required=False)
    for found in (generation.get("eos_token_id"), config.get("eos_token_id"), tokenizer.eos_token_id):
        if isinstance(found, int):
            return (found,)
        if isinstance(found, list) and found and all(isinstance(entry, int) for entry in found):
            return tuple(found)
    raise ModelDirectoryError(f"{root} names no eos_token_id in generation_config.json, config.json or tokenizer")


def _positive_int(config: Mapping[str, Any], name: str, root: Path) -> int:
    """A field of config.json: its own, its language model's, or what transformers knows the family calls it."""
    value = config.get(name)
    if value is None and "model_type" in config:
        from transformers import AutoConfig

        with contextlib.suppress(Exception):  # whatever is wrong with the file, the field is what is missed here
            loaded = AutoConfig.from_pretrained(root, local_files_only=True, trust_remote_code=False)
            value = getattr(loaded.get_text_config(), name, None)
    if not isinstance(value, int) or value <= 0:
        raise ModelDirectoryError(f"{root}/config.json: {name} must be a positive integer, found {value!r}")
    return value


def _read_json(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_bytes())
    except FileNotFoundError:
        if required:
            raise ModelDirectoryError(f"{path.parent} has no {path.name}") from None
        return {}
    except (OSError, ValueError) as error:
        raise ModelDirectoryError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ModelDirectoryError(f"{path} must hold a JSON object")
    return loaded
