"""YAML from outside, as plain values within bounds: preset files, training settings, `--set key=value`.

Refused, because they can exhaust memory, hide a mistake or yield values that JSON does not know: anchors and aliases,
sets, binary and other tags, keys that repeat or are not strings, deep nesting. A date stays the text that it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import yaml

from sharedllm.errors import UserError

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
REFUSED_TAGS = ("set", "omap", "pairs", "binary", "timestamp")


class _PlainLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs lack it
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError("anchors and aliases are not allowed: write the value out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is not text: put it in quotes")
            if key in seen:
                raise ValueError(f"the key '{key}' stands there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_PlainLoader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] not in REFUSED_TAGS
}
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":timestamp", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(text: str) -> object:
    """The value of a YAML text: None, bool, int, float, str, or lists and dicts of them.

    Raises ValueError, one sentence without the place, for text that is not such YAML or longer than 1 MiB.
    """
    if len(text) > MAX_BYTES:
        raise ValueError("it is longer than 1 MiB")
    try:
        return yaml.load(text, _PlainLoader)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or str(error)
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None and "\n" in text else ""
        raise ValueError(f"it is not valid YAML{place} ({' '.join(str(reason).split())})") from error
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from error


def assignments(texts: Iterable[str]) -> dict[str, object]:
    """`key=value` texts as a dict, each value read as YAML. Raises UserError for one that is not of that form."""
    found: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {text} is not key=value: write for instance --set depths=3.")
        try:
            found[key.strip()] = load(value)
        except ValueError as error:
            raise UserError(f"--set {key}: the value {value[:80]} cannot be used, {error}.") from error
    return found
