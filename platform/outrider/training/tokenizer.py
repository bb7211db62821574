"""The demo models' tokenizer: byte-level BPE behind GPT-2's pre-tokenizer, four special tokens, a ChatML template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from outrider.training.data import Document, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["CHAT_TEMPLATE", "SPECIAL_TOKENS", "encode_document", "load_tokenizer", "render_prompt", "train_tokenizer"]

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
MASK = "<|mask|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, MASK)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Qwen's wording (Hermes format). A template of its own, so that conversations without tools stay what they were.
TOOL_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system, turns = messages[0]['content'] + '\\n\\n', messages[1:] %}
{%- else %}
    {%- set system, turns = '', messages %}
{%- endif %}
{{- '<|im_start|>system\\n' + system + '# Tools\\n\\n' }}
{{- 'You may call one or more functions to assist with the user query.' }}
{{- '\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}
{%- for tool in tools %}
    {{- '\\n' + (tool | tojson) }}
{%- endfor %}
{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within ' }}
{{- '<tool_call></tool_call> XML tags:\\n<tool_call>\\n' }}
{{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- for message in turns %}
    {%- if message['role'] == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message['content'] + '\\n</tool_response>' }}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] }}
    {%- endif %}
    {%- for call in message['tool_calls'] %}
        {{- '\\n' if message['content'] or not loop.first }}
        {%- set said = {'name': call['function']['name'], 'arguments': call['function']['arguments']} %}
        {{- '<tool_call>\\n' + (said | tojson) + '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def train_tokenizer(documents: Iterable[Document], directory: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn `vocab_size` entries (specials and the 256 bytes included) and save in transformers' format."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    # a digit is a token: sums are learnt from columns of digits, not from a table of numbers
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_texts(documents), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        mask_token=MASK,
        additional_special_tokens=[TURN_START],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = {"default": CHAT_TEMPLATE, "tool_use": TOOL_TEMPLATE}
    tokenizer.save_pretrained(directory)
    return tokenizer


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved beside a target."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)


def render_prompt(messages: Iterable[Message]) -> str:
    """The chat template applied with a generation prompt, without the cost of the template engine."""
    turns = "".join(f"{TURN_START}{m['role']}\n{m['content']}{TURN_END}\n" for m in messages)
    return f"{turns}{TURN_START}assistant\n"


def encode_document(tokenizer: PreTrainedTokenizerFast, document: Document) -> list[int]:
    """Token ids as the model sees them in training: ChatML turns, or plain text closed by end-of-text."""
    if document.messages:
        text = f"{render_prompt(document.prompt)}{document.response}{TURN_END}\n"
    else:
        text = f"{document.text}{END_OF_TEXT}"
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _texts(documents: Iterable[Document]) -> Iterator[str]:
    """Raw text of every turn; role names are included so that they become single tokens."""
    for document in documents:
        if document.text:
            yield document.text
        for message in document.messages:
            yield message["role"]
            yield message["content"]
