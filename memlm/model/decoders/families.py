"""The families of decoders that can have a memory, by Hugging Face's `model_type`.

A family is one entry: where a decoder keeps its layers, and what a layer calls its feed-forward
network and its attention. Everything that needs one of them asks here. Imports neither torch nor
transformers.
"""

from typing import Any, NamedTuple

PREFIX = "memory_"
"""What the model type of a family with memory adds in front of the family's own."""


class Family(NamedTuple):
    """Names of attributes, which may be dotted paths."""

    layers: str = "layers"
    """The list of layers, within the decoder."""
    feed_forward: str = "mlp"
    """Within a layer. It takes the hidden states alone."""
    attention: str = "self_attn"
    """Within a layer. It returns a tuple whose first element is its output."""


FAMILIES: dict[str, Family] = {
    "gemma2": Family(),
    "gemma3_text": Family(),
    "gpt2": Family(layers="h", attention="attn"),
    "gpt_neox": Family(attention="attention"),
    "llama": Family(),
    "mistral": Family(),
    "olmo2": Family(),
    "phi3": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "smollm3": Family(),
}


class UnknownFamily(ValueError):
    """A decoder that has no entry in the table."""


def family_of(model_type: str) -> Family:
    """The family of a model type, with memory or without. Raises UnknownFamily."""
    found = FAMILIES.get(model_type.removeprefix(PREFIX))
    if found is None:
        raise UnknownFamily(
            f"model_type is {model_type!r}; memlm puts a memory into {', '.join(FAMILIES)}. Another family needs an entry in FAMILIES "
            "(memlm/model/decoders/families.py): where its layers are, such as 'layers', and what a layer calls its feed-forward network "
            "and its attention, such as 'mlp' and 'self_attn'"
        )
    return found


def layers_of(model: Any) -> Any:
    """The layers of a language model or of its decoder, in their order."""
    return _at(model.base_model, family_of(model.config.model_type).layers)


def feed_forward_of(model: Any, number: int) -> Any:
    return _at(layers_of(model)[number], family_of(model.config.model_type).feed_forward)


def attention_of(model: Any, number: int) -> Any:
    return _at(layers_of(model)[number], family_of(model.config.model_type).attention)


def replace_feed_forward(model: Any, number: int, module: Any) -> None:
    path, _, name = family_of(model.config.model_type).feed_forward.rpartition(".")
    setattr(_at(layers_of(model)[number], path), name, module)


def _at(module: Any, path: str) -> Any:
    """The module at a dotted path within another one."""
    for name in filter(None, path.split(".")):
        module = getattr(module, name)
    return module
