"""Changes to a policy's text that leave every other character, comments included, as its author typed it."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

__all__ = ["without_key"]


def without_key(text: str, digest: str) -> str:
    """The text without the entry of the key that has this SHA-256; as it was when it has none.

    `text` is a document that loads (no anchors, bounded nesting). An entry on lines of its own goes with those lines
    and the comments on them; a list of which nothing is left stays as `[]`.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for name, entries in _key_lists(root):
        for index, entry in enumerate(entries.value):
            if _text_of(_child(entry, "sha256")) == digest:
                return _without(text, name, entries, index)
    return text


def _key_lists(root: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.SequenceNode]]:
    """Lists of keys, each with the node of its name: the operators' and those of every tenant."""
    holders = [(root, "operators")]
    tenants = _child(root, "tenants")
    if isinstance(tenants, yaml.MappingNode):
        holders += [(tenant, "keys") for _, tenant in tenants.value]
    for holder, field in holders:
        for key, value in holder.value if isinstance(holder, yaml.MappingNode) else []:
            if key.value == field and isinstance(value, yaml.SequenceNode):
                yield key, value


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def _text_of(node: yaml.Node | None) -> str | None:
    return node.value if isinstance(node, yaml.ScalarNode) else None


def _without(text: str, name: yaml.Node, entries: yaml.SequenceNode, index: int) -> str:
    entry = entries.value[index]
    if entries.flow_style:
        start, end = entry.start_mark.index, entry.end_mark.index
        if index + 1 < len(entries.value):
            end = entries.value[index + 1].start_mark.index
        elif index:
            start = entries.value[index - 1].end_mark.index
        return text[:start] + text[end:]
    start = text.rfind("\n", 0, text.rfind("-", 0, entry.start_mark.index)) + 1
    end = text.find("\n", _end(entry))
    rest = text[end + 1 :] if end >= 0 else ""
    if len(entries.value) > 1:
        return text[:start] + rest
    colon = text.index(":", name.end_mark.index) + 1
    return f"{text[:colon]} []{text[colon:start]}{rest}"


def _end(node: yaml.Node) -> int:
    """Where the last character of a node's own text stands; a block's end mark lies behind the comments after it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _end(node.value[-1][1])
    end: int = node.end_mark.index
    return end
