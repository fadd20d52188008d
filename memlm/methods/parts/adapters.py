"""The learning of an adapter by PEFT: one that is merged into the base's matrices at the end, or a
prefix that stays in front of every text."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import DynamicCache

from memlm.data.questions.facts import FactBatch
from memlm.data.questions.records import Fact
from memlm.methods.method import FixedParametersMethod, LearningInputs
from memlm.methods.parts.target_modules import target_modules
from memlm.methods.peft import AdapterConfig
from memlm.model.reader.prefixes import Prefix, prefix_in, prefix_of, put_behind
from memlm.names import suggestion

KEYS_VALUES = ("cartridge", "prefix_tuning")
"""Prefixes that are learned as keys and values; the others are learned as embeddings."""


def require_fields(kind: str, settings: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that PEFT's config of the kind does not have."""
    known = sorted(field.name for field in fields(_config_class(kind)) if field.init)
    for name in settings:
        if name not in known:
            raise ValueError(f"method.settings names {name!r}, and method.kind is {kind}; {suggestion(name, known)}")


def adapted(model: nn.Module, config: AdapterConfig, *, seed: int) -> peft.PeftModel:
    """The model with a new adapter, whose weights alone require a gradient. Raises ValueError for
    settings that PEFT refuses."""
    kind, settings = config.adapter_kind, config.adapter_settings(target_modules(model))
    try:
        adapter = _config_class(kind)(task_type=peft.TaskType.CAUSAL_LM, **settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return peft.get_peft_model(model, adapter)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"PEFT refuses {kind} with {settings}: {reason}; change method.settings") from error


def _config_class(kind: str) -> type[Any]:
    return PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[kind.upper()]]


class MergedAdapter(FixedParametersMethod):
    def __init__(self, model: nn.Module, config: AdapterConfig, *, seed: int, num_steps: int = 0) -> None:
        super().__init__(adapted(model, config, seed=seed), config.optimizer, num_steps=num_steps)
        self.scale = config.update_scale

    @property
    def learning_model(self) -> nn.Module:
        return self.model.get_base_model()  # type: ignore[operator]

    def finish(self) -> nn.Module:
        # Merging writes to the base's weights in place, and other trials may be reading them.
        unscaled: list[tuple[nn.Parameter, Tensor]] = []
        for module in self.model.modules():
            if not isinstance(module, BaseTunerLayer):
                continue
            if isinstance(module, LoraLayer):
                module.scale_layer(self.scale)
            for parameter in module.get_base_layer().parameters():
                if not isinstance(module, LoraLayer) and self.scale != 1:
                    unscaled.append((parameter, parameter.data))
                parameter.data = parameter.data.clone()
        merged = self.model.merge_and_unload()  # type: ignore[operator]
        for parameter, before in unscaled:
            parameter.data = before.lerp(parameter.data, self.scale)
        return merged


class LearnedPrefix(FixedParametersMethod):
    """Keys and values before every text, of all layers. No weight of the model moves."""

    def __init__(self, model: nn.Module, config: AdapterConfig, inputs: LearningInputs) -> None:
        self.adapted, self.kind = adapted(model, config, seed=inputs.seed), config.adapter_kind
        if self.kind == "cartridge":
            self._begin_as_statements(inputs)
        super().__init__(self.adapted, config.optimizer, num_steps=inputs.num_steps)
        self.model = self.adapted.get_base_model()
        self.handle = put_behind(self.model, self.prefix)

    def prefix(self) -> Prefix:
        """The prefix as it is learned so far."""
        prompt = self.adapted.get_prompt(1)
        if self.kind in KEYS_VALUES:
            return prefix_in(prompt)
        cache = DynamicCache(config=self.model.config)
        # `forward` runs no hooks: the model's own hook is what asks for this prefix.
        self.model.forward(inputs_embeds=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return prefix_in(cache)

    def finish(self) -> nn.Module:
        with torch.no_grad():
            learned = self.prefix().detached()
        self.handle.remove()
        put_behind(self.model, learned)
        return self.model

    @torch.no_grad()
    def _begin_as_statements(self, inputs: LearningInputs) -> None:
        """Set the prefix to the keys and values of the facts' statements (Eyuboglu et al. 2025,
        arXiv 2506.06266)."""
        model = self.adapted.get_base_model()
        length = self.adapted.active_peft_config.num_virtual_tokens
        tokens = tokens_of_statements(inputs.facts, inputs.statements, length)
        pairs = prefix_of(model, tokens.to(model.device)).keys_values
        initialize_kv_prefix_from_past_key_values(self.adapted, past_key_values=pairs)


def tokens_of_statements(facts: Iterable[Fact], statements: Callable[[str], FactBatch] | None, length: int) -> Tensor:
    """The first `length` tokens of the facts' statements: the first of each fact, then the second
    of each, and so on. Raises ValueError if there are fewer."""
    batches = [statements(fact.id) for fact in facts] if statements is not None else []
    rows: list[Tensor] = []
    for number in range(max((len(batch.tokens) for batch in batches), default=0)):
        rows += [batch.tokens[number][batch.is_token[number]] for batch in batches if number < len(batch.tokens)]
    tokens = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
    if len(tokens) < length:
        raise ValueError(
            f"a cartridge of num_virtual_tokens {length} begins as that many tokens of the facts' statements, which have {len(tokens)}; "
            f"lower num_virtual_tokens in method.settings"
        )
    return tokens[:length]
