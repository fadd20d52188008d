"""Hugging Face's decoders with memory layers where the configuration asks for them.

For each family there is a configuration, a decoder, a language model and a classifier, each made of
the family's own class and one of the classes here: `memory_classes("qwen3").language_model` is
MemoryQwen3ForCausalLM. They are registered with the Auto classes, so generation, KV cache,
safetensors, PEFT and lm-evaluation-harness work as for any model.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from memlm.model.decoders.configuration import MemoryConfiguration
from memlm.model.decoders.families import FAMILIES, PREFIX, feed_forward_of, layers_of, replace_feed_forward
from memlm.model.decoders.names import base_names
from memlm.model.memory import MemoryLayer, ValuePool, add_to, memory_in
from memlm.model.tied_pools import ValuePools

POOL_OF_LAYER = re.compile(r"\b\w+\.\d+\.\w+\.(?:memory\.)?pool\.")
"""Prefix of the name that a pool has as part of a layer."""


class MemoryWeights(PreTrainedModel):
    """Initialisation of the memory's weights. Both classes below need it, because the inner one
    marks its modules as initialised."""

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MemoryLayer | ValuePool):
            module.reset_parameters()

    def _initialize_weights(self, module: nn.Module, *how: bool) -> None:
        # Layers are visited before the module that owns their pools, and pools are initialised
        # last, so that the same seed keeps giving the same weights.
        if isinstance(module, ValuePool):
            return
        super()._initialize_weights(module, *how)
        if isinstance(module, MemoryDecoder):
            for pool in module._modules.get("value_pools") or ():  # the base's part is initialised before they exist
                super()._initialize_weights(pool, *how)


class MemoryDecoder(MemoryWeights):
    """The decoder stack. It owns the value pools: one for all memory layers, or one each.

    A pool is also part of the layers that read it. Among parameters and in the state dict it is
    listed once, under its owner's name: value_pools.0.weight.
    """

    def __init__(self, config: Any, **split: Any) -> None:
        super().__init__(config)
        parallel = _is_parallel(config.memory_placement)
        self.value_pools = ValuePools(
            ValuePool(config.num_slots, config.memory_value_dim, starts_at_zero=parallel, **split)
            for _ in range(config.num_pools)
        )
        readers: list[list[MemoryLayer]] = [[] for _ in range(config.num_pools)]
        for position, number in enumerate(config.memory_layers or []):
            pool = 0 if config.memory_share_values else position
            memory = MemoryLayer(
                self.value_pools[pool],
                hidden_size=config.hidden_size,
                num_half_keys=config.memory_num_half_keys,
                top_k=config.memory_top_k,
                num_heads=config.memory_num_heads,
                key_dim=config.memory_key_dim,
                query_norm=config.memory_query_norm,
                passes_values=parallel,
            )
            if parallel:
                add_to(feed_forward_of(self, number), memory)
            else:
                replace_feed_forward(self, number, memory)
            readers[pool].append(memory)
        for pool, of_pool in enumerate(readers):
            self.value_pools.tie(pool, of_pool)
        self.register_state_dict_post_hook(_drop_pools_of_layers)
        self.register_load_state_dict_post_hook(_ignore_missing_pools_of_layers)
        self.post_init()

    def __setattr__(self, name: str, value: Any) -> None:
        pools = self.__dict__.get("_modules", {}).get("value_pools")
        if name != "value_pools" or pools is None or not isinstance(value, nn.ModuleList):
            super().__setattr__(name, value)
            return
        # The pools are replaced within the list: the layers would not know of another list.
        for number, pool in zip(range(len(pools)), value, strict=True):
            pools[number] = pool

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Like torch's, but each pool is named after its owner, where torch would name it after
        the first layer that reads it."""
        pools = self._modules.get("value_pools")
        if not remove_duplicate or pools is None:
            yield from super().named_modules(memo, prefix, remove_duplicate)
            return
        memo = set() if memo is None else memo
        of_pools = set(pools.modules()) - memo
        memo |= of_pools
        yield from super().named_modules(memo, prefix)
        memo -= of_pools
        yield from pools.named_modules(memo, f"{prefix}.value_pools" if prefix else "value_pools")


def _is_parallel(placement: str) -> bool:
    if placement not in ("replace", "parallel"):
        raise ValueError(f"memory_placement is {placement!r}; it must be 'replace' or 'parallel'")
    return placement == "parallel"


def _drop_pools_of_layers(model: MemoryDecoder, state: dict[str, Any], prefix: str, _: object) -> None:
    for name in [name for name in state if name.startswith(prefix) and POOL_OF_LAYER.match(name, len(prefix))]:
        del state[name]


def _ignore_missing_pools_of_layers(model: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if not POOL_OF_LAYER.search(name)]


class MemoryHead(MemoryWeights):
    """A language model or a classifier over a decoder with memory."""

    decoder_class: type[MemoryDecoder]

    def __init__(self, config: Any, **split: Any) -> None:
        super().__init__(config)
        # Some families make their decoder through the Auto class, and have one with memory already.
        if not isinstance(self.base_model, MemoryDecoder):
            setattr(self, self.base_model_prefix, self.decoder_class(config, **split))
            self.post_init()

    @property
    def memory_layers(self) -> list[MemoryLayer]:
        found = (memory_in(feed_forward_of(self, number)) for number in range(len(layers_of(self))))
        return [layer for layer in found if layer is not None]


class MemoryClasses(NamedTuple):
    """The classes of a family with memory."""

    configuration: type[Any]
    decoder: type[Any]
    language_model: type[Any]
    classifier: type[Any] | None
    """None where transformers has none for the family."""


@functools.cache
def memory_classes(family: str) -> MemoryClasses:
    """The classes of a family of FAMILIES, registered with the Auto classes."""
    base = CONFIG_MAPPING[family]
    configuration = _with_memory(MemoryConfiguration, base, model_type=f"{PREFIX}{family}")
    AutoConfig.register(configuration.model_type, configuration, exist_ok=True)
    decoder = _with_memory(MemoryDecoder, MODEL_MAPPING[base], config_class=configuration)
    AutoModel.register(configuration, decoder, exist_ok=True)
    parts = {"config_class": configuration, "decoder_class": decoder}
    language_model = _with_memory(MemoryHead, MODEL_FOR_CAUSAL_LM_MAPPING[base], **parts)
    AutoModelForCausalLM.register(configuration, language_model, exist_ok=True)
    classifier = None
    if base in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        classifier = _with_memory(MemoryHead, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[base], **parts)
        AutoModelForSequenceClassification.register(configuration, classifier, exist_ok=True)
    return MemoryClasses(configuration, decoder, language_model, classifier)


def _with_memory(ours: type, base: type, **attributes: Any) -> Any:
    return type(f"Memory{base.__name__}", (ours, base), {"__module__": __name__, **attributes})


def __getattr__(name: str) -> Any:
    """A class by its name, for pickles, which name classes by module."""
    for family in FAMILIES:
        if name in {f"Memory{each}" for each in base_names(family).values()}:
            return next(each for each in memory_classes(family) if each is not None and each.__name__ == name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
