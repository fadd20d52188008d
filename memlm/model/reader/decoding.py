"""Greedy decoding from prompts of one length, with a key-value cache.

The tokens are those of Hugging Face's `generate(do_sample=False)`. In Llama's decoder, that of
memlm's own models, a token costs nothing but the layers' own work: general preparations, and the
mask of a single token that sees all others, take a small model a sixth of its time.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, LlamaModel

from memlm.model.reader.trunk import TrunkActivations, continue_from


@torch.no_grad()
def continue_greedily(
    model: nn.Module,
    prompts: Int[Tensor, "batch seq"],
    trunk: TrunkActivations | None = None,
    *,
    max_new_tokens: int,
    end_ids: Sequence[int],
    pad_id: int,
) -> Int[Tensor, "batch new"]:
    """The most likely next token, again and again; pads after a row's first end.

    Stops when all rows have ended. Rows that have ended are decoded until then: to drop them would
    change the batch's shape, and with it the last bits of the others. `trunk` is the recorded trunk
    of the prompts, with keys and values, if there is one.
    """
    cache = DynamicCache(config=model.config)
    if trunk is None:
        logits = model(input_ids=prompts, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    else:
        logits = continue_from(model, trunk, cache=cache, last_only=True)
    ends = torch.tensor(list(end_ids), device=prompts.device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
    written: list[Tensor] = []
    while True:
        tokens = logits[:, -1].float().argmax(dim=-1).masked_fill(ended, pad_id)
        written.append(tokens)
        ended |= torch.isin(tokens, ends)
        if len(written) == max_new_tokens or bool(ended.all()):
            return torch.stack(written, dim=1)
        logits = _decode(model, tokens[:, None], cache)


def _decode(model: nn.Module, tokens: Int[Tensor, "batch 1"], cache: DynamicCache) -> Float[Tensor, "batch 1 vocab"]:
    """The logits of one more token per row. In Llama's decoder it attends to everything before it,
    so there is no mask."""
    decoder = model.base_model
    if not isinstance(decoder, LlamaModel):
        return model(input_ids=tokens, past_key_values=cache, use_cache=True).logits
    hidden = decoder.embed_tokens(tokens)  # type: ignore[union-attr,operator]
    positions = torch.full((1, 1), cache.get_seq_length(), device=tokens.device)
    rotary = decoder.rotary_emb(hidden, position_ids=positions)  # type: ignore[union-attr,operator]
    for layer in decoder.layers:  # type: ignore[union-attr]
        hidden = layer(
            hidden,
            attention_mask=None,
            position_embeddings=rotary,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
    return model.lm_head(decoder.norm(hidden))  # type: ignore[union-attr,operator]
