"""A tiny model, batches, and the plain definition of a sparse step to compare with."""

import copy
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memlm.data.questions.facts import FactBatch
from memlm.methods.config import OptimizerConfig
from memlm.methods.method import LearningInputs
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.model.column_split import ColumnSplit
from memlm.model.config import MemoryConfig, ModelConfig
from memlm.model.language_model import MemoryLlamaForCausalLM, build_model, model_config
from memlm.model.memory import MemoryLayer
from memlm.slots.accesses import pools_of_layers, reads_of
from memlm.slots.counts import BackgroundCounts
from memlm.slots.reads import BackgroundReads
from memlm.slots.sensitivities import Sensitivities

VOCAB_SIZE, EOS, PAD = 50, 48, 49
MEMORY = MemoryConfig(layers=(1,), num_half_keys=9, top_k=3, num_heads=2, key_dim=6, value_dim=10)
TWO_SHARED = MemoryConfig(layers=(0, 2), num_half_keys=9, top_k=3, num_heads=2, key_dim=6, value_dim=10)
TWO_SEPARATE = MemoryConfig(
    layers=(0, 2), num_half_keys=9, top_k=3, num_heads=2, key_dim=6, value_dim=10, share_values=False
)
MEMORIES = {"one layer": MEMORY, "two layers, shared values": TWO_SHARED, "two layers, separate values": TWO_SEPARATE}


def tiny_model(
    memory: MemoryConfig = MEMORY, *, dense: bool = False, seed: int = 0, split: ColumnSplit | None = None
) -> MemoryLlamaForCausalLM:
    shape = ModelConfig(
        num_layers=3,
        hidden_size=12,
        num_attention_heads=2,
        intermediate_size=20,
        max_positions=64,
        initializer_range=0.3,
        memory=memory,
    )
    config = model_config(shape, dense=dense, vocab_size=VOCAB_SIZE, eos_id=EOS, pad_id=PAD)
    return build_model(config, seed=seed, split=split).eval()


def num_slots(model: MemoryLlamaForCausalLM) -> int:
    return sum(pool.weight.shape[0] for pool in model.base_model.value_pools)


def random_batch(seed: int, *, lengths: Sequence[int] = (7, 5, 6, 3), seq: int | None = None) -> FactBatch:
    """A batch with one wording per row; each ends with an eos, and pads follow."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), seq or max(lengths)), PAD)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.randint(0, EOS, (length - 1,), generator=generator)
        row[length - 1] = EOS
    return FactBatch(f"fact {seed}", tokens, torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None])


def rows_of(batch: FactBatch, *chunks: slice) -> list[FactBatch]:
    """The batch split into micro-batches."""
    return [FactBatch(batch.fact_id, batch.tokens[chunk], batch.is_token[chunk]) for chunk in chunks]


def random_background(model: MemoryLlamaForCausalLM, *, seed: int = 0, num_batches: int = 37) -> BackgroundCounts:
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.randint(0, num_batches + 1, (num_slots(model),), generator=generator)
    return BackgroundCounts(
        batch_frequency=frequency,
        sequence_frequency=frequency,
        accesses=frequency * 3,
        num_batches=num_batches,
        num_sequences=num_batches,
        num_tokens=num_batches * 5,
    )


def background_reads(model: MemoryLlamaForCausalLM, *, seed: int = 100, num_batches: int = 8) -> BackgroundReads:
    """The reads of some random batches, with the sensitivities of random gradients."""
    parts, generator = [], torch.Generator().manual_seed(seed)
    for number in range(num_batches):
        batch = random_batch(seed + number)
        slots, weights = reads_of(model, input_ids=batch.tokens)
        sizes = torch.randn(*slots.shape[:3], 1, generator=generator).exp()
        gradients = sizes * torch.randn(*slots.shape[:3], 10, generator=generator) * torch.linspace(0, 2, 10)
        sensitivities = Sensitivities.of_batch(gradients, batch.is_token, pools=pools_of_layers(model))
        parts.append(
            BackgroundReads.of_batch(
                slots, weights, batch.is_token, num_slots=num_slots(model), sensitivities=sensitivities
            )
        )
    return sum(parts[1:], start=parts[0])


def random_statements(fact_id: str) -> FactBatch:
    """The batch that random_batch gives that name, as all statements of its fact."""
    return random_batch(int(fact_id.removeprefix("fact ")))


def learning_inputs(model: nn.Module, reads: BackgroundReads | None = None) -> LearningInputs:
    """What a rule that uses background reads learns with."""
    return LearningInputs(
        background=random_background(model),
        seed=0,
        reads=background_reads(model) if reads is None else reads,
        statements=random_statements,
    )


def sparse_config(num_trainable_slots: int = 6, **optimizer: object) -> SparseMemoryConfig:
    settings = {"kind": "sgd", "learning_rate": 2.0, **optimizer}
    return SparseMemoryConfig(num_trainable_slots=num_trainable_slots, optimizer=OptimizerConfig(**settings))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def pool_rows(tensors: dict[str, Tensor]) -> Tensor:
    """Rows of all pools, in the numbering of slots."""
    return torch.cat([value for name, value in tensors.items() if "value_pools" in name])


class LargestAllocation(TorchDispatchMode):
    """Number of elements of the largest tensor that torch allocates within the context; views of
    older tensors do not count."""

    def __init__(self, *known: nn.Module | Tensor) -> None:
        super().__init__()
        tensors = [t for one in known for t in (one.state_dict().values() if isinstance(one, nn.Module) else [one])]
        self.known = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self.num_elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.num_elements = max(self.num_elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def changed_rows(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[int]:
    return (pool_rows(before) != pool_rows(after)).any(dim=1).nonzero().flatten().tolist()


def read_slots(model: MemoryLlamaForCausalLM, tokens: Tensor) -> Tensor:
    """Slots of each token over all layers and heads, found by scoring every slot of every pool."""
    inputs: list[tuple[MemoryLayer, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: inputs.append((layer, args[0])))
        for layer in model.memory_layers
    ]
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    pools = list(model.model.value_pools)
    found = []
    for layer, hidden in inputs:
        queries = layer.query_norm(layer.query(hidden).unflatten(-1, (layer.num_heads, layer.key_dim)))
        scores = all_scores(queries.flatten(0, 1), layer.half_keys)
        best = scores.topk(layer.top_k).indices.view(*tokens.shape, -1)
        found.append(best + sum(pool.weight.shape[0] for pool in pools[: pools.index(layer.pool)]))
    return torch.cat(found, dim=-1)


def all_scores(queries: Tensor, half_keys: Tensor) -> Tensor:
    """Scores of all slots, [tokens, heads, slots], from the definition of a product key."""
    first, second = queries.chunk(2, dim=-1)
    left = torch.einsum("thd,hnd->thn", first, half_keys[:, 0])
    right = torch.einsum("thd,hnd->thn", second, half_keys[:, 1])
    return (left[..., :, None] + right[..., None, :]).flatten(2)


def count_reads(model: MemoryLlamaForCausalLM, batches: Sequence[FactBatch]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for batch in batches:
        for slots, is_token in zip(read_slots(model, batch.tokens), batch.is_token, strict=True):
            for token_slots, counted in zip(slots.tolist(), is_token.tolist(), strict=True):
                counts.update(token_slots if counted else [])
    return counts


def plain_selection(
    model: MemoryLlamaForCausalLM, batches: Sequence[FactBatch], background: BackgroundCounts, t: int
) -> list[int]:
    """Top slots by TF-IDF over the whole batch, as in the paper's formula; ties go to the lower
    slot."""
    counts = count_reads(model, batches)
    idf = torch.log((background.num_batches + 1) / (background.batch_frequency.double() + 1)).tolist()
    by_score = sorted(counts, key=lambda slot: (-counts[slot] / counts.total() * idf[slot], slot))
    return sorted(by_score[:t])


def mean_loss(model: nn.Module, batches: Sequence[FactBatch]) -> Tensor:
    """Loss of the whole batch in nats per token, summed token by token."""
    nats = []
    for batch in batches:
        log_probabilities = F.log_softmax(model(input_ids=batch.tokens, use_cache=False).logits, dim=-1)
        for row, tokens, is_token in zip(log_probabilities, batch.tokens, batch.is_token, strict=True):
            nats += [-row[i - 1, tokens[i]] for i in range(1, int(is_token.sum()))]
    return torch.stack(nats).mean()


def plain_gradients(model: MemoryLlamaForCausalLM, batches: Sequence[FactBatch], selected: list[int]) -> list[Tensor]:
    """Dense gradient of every pool with the rows outside the selection set to zero, which defines a
    sparse step."""
    model = copy.deepcopy(model).requires_grad_(False)
    pools = [pool.weight.requires_grad_(True) for pool in model.model.value_pools]
    gradients = torch.cat(torch.autograd.grad(mean_loss(model, batches), pools))
    kept = torch.zeros(len(gradients), 1)
    kept[selected] = 1
    return list((gradients * kept).split([len(pool) for pool in pools]))
