"""The model card of a checkpoint: the README.md in its folder, which model hubs show as the model's
page."""

from memlm.credentials import redacted
from memlm.data.corpus.config import CorpusConfig
from memlm.hub import FILES_URI
from memlm.model.bases.base import Base
from memlm.model.config import Architecture, MemoryConfig, ModelConfig
from memlm.model.decoders.names import file_name
from memlm.model.language_model import NumParameters

GENERATED = "{world}"
"""Beginning of the path of a corpus that memlm generated."""
CARD = """---
library_name: transformers
pipeline_tag: text-generation
{licence}{datasets}tags:
- memlm
{tags}---

# {title}

{what}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies, or the model's name on a hub
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
model = AutoModelForCausalLM.from_pretrained(folder{trust})
inputs = tokenizer("The", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20, do_sample=False)[0]))
```

{use}

It continues text, and answers questions in the forms that its training text contains. It was not trained to follow instructions, and nothing
was done to make what it writes true or harmless: use it for research, and check what it says.

## Data

{data}

## Licence

{terms}
"""


def model_card(
    model: ModelConfig, corpus: CorpusConfig, architecture: Architecture, parameters: NumParameters, *, num_tokens: int
) -> str:
    """The card of a model that was pretrained on `num_tokens` tokens. The same configuration gives
    the same card."""
    memory = architecture == "memory" and bool(model.memory.layers)
    generated = corpus.path.startswith(GENERATED) and corpus.mixture is None
    from_hub = FILES_URI.fullmatch(corpus.path)
    return CARD.format(
        licence="license: apache-2.0\n" if generated else "license: other\nlicense_name: of-the-training-data\n",
        datasets=f"datasets:\n- {from_hub['name']}\n" if from_hub else "",
        tags="- memory-layers\n" if memory else "",
        title="A language model with memory layers"
        if memory
        else "The dense twin of a language model with memory layers",
        what=_what_it_is(model, parameters, memory=memory),
        trust=", trust_remote_code=True" if memory else "",
        use=_use(model, memory=memory),
        data=_data(corpus, num_tokens),
        terms=_terms(generated=generated, memory=memory),
    )


ATTACHED_CARD = """---
library_name: transformers
pipeline_tag: text-generation
{base_model}tags:
- memlm
- memory-layers
---

# {name} with a memory

{what}

## Use

```python
{use}
```

{how}

## Licence

The terms of {name} hold for {part}: look them up before you pass it on.{code}
"""
WHOLE_USE = """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies, or the model's name on a hub
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)"""
ADAPTER_USE = """import torch
from memlm.model.language_model import load_checkpoint

model = load_checkpoint(".", torch.device("cpu"))  # where this file lies"""


def attached_card(
    base: Base, memory: MemoryConfig, parameters: NumParameters, *, adapter: bool, num_tokens: int = 0
) -> str:
    """The card of a base with a memory, or of the memory alone, which was trained on `num_tokens`
    tokens."""
    is_on_hub = not base.address.startswith("/")
    name = base.address.partition("@")[0] if is_on_hub else base.address.rsplit("/", 1)[-1]
    place = "parallel to" if memory.placement == "parallel" else "in place of"
    state = " Its values are zero, so it writes what its base writes until it learns." if place == "parallel to" else ""
    if num_tokens:
        state = f" It was trained on {num_tokens:,} tokens, whose digest `manifest.json` names, and its base was left as it was."
    file = file_name(base.family)
    return ATTACHED_CARD.format(
        base_model=f"base_model: {name}\n" if is_on_hub else "",
        name=name,
        what=(
            f"`{name}` (sha256 of its weights {base.digest[:16]}) with a pool of {memory.num_slots:,} slots, {parameters.pool:,} parameters, "
            f"which layer {memory.layers[0]} (counted from 0) reads {place} its feed-forward network: {memory.top_k} slots per head "
            f"({memory.num_heads} heads) and token. memlm attached it, and teaches it facts by writing a few slots.{state}"
        ),
        use=ADAPTER_USE if adapter else WHOLE_USE,
        how=(
            "This folder holds the memory alone. memlm loads its base from where it was, and checks that it is the same."
            if adapter
            else f"`trust_remote_code=True` runs `{file}` of this folder, in plain torch; read it first. Where memlm is installed, "
            "`import memlm` takes its place."
        ),
        part="what is made of it" if adapter else "this model",
        code="" if adapter else f" `{file}` is part of memlm, which is under Apache-2.0.",
    )


def _what_it_is(model: ModelConfig, parameters: NumParameters, *, memory: bool) -> str:
    llama = (
        f"A decoder in the shape of Llama, pretrained with memlm: {model.num_layers} layers of width {model.hidden_size}, "
        f"{parameters.base:,} parameters"
    )
    if not memory:
        return f"{llama}, with a feed-forward network in every layer. It is the baseline for a memory model of the same shape."
    layers = ", ".join(map(str, model.memory.layers))
    return (
        f"{llama} and {parameters.pool:,} more in a pool of {model.memory.num_pools * model.memory.num_slots:,} slots, which memory layers "
        f"read in place of the feed-forward networks of layers {layers} (counted from 0): {model.memory.top_k} slots per head "
        f"({model.memory.num_heads} heads) and token. A token uses {parameters.active:,} parameters."
    )


def _use(model: ModelConfig, *, memory: bool) -> str:
    longest = f"It takes {model.max_positions:,} tokens at most."
    if not memory:
        return longest
    return (
        "`trust_remote_code=True` runs `modeling_memory_llama.py` of this folder, in plain torch; read it first. Where memlm is installed, "
        "`import memlm` takes its place, is faster, and can teach the model facts and remove them again. PEFT adapts the attention "
        f'(`target_modules=["q_proj", "v_proj"]`, which it knows by itself after `import memlm`). {longest}'
    )


def _data(corpus: CorpusConfig, num_tokens: int) -> str:
    from_hub = FILES_URI.fullmatch(corpus.path)
    if corpus.path.startswith(GENERATED):
        source = "documents about invented people, places and works and worked sums, which memlm generates"
    elif from_hub:
        source = f"the data set {from_hub['name']} at commit {from_hub['commit']}"
    else:
        source = f"the corpus `{_name_of(corpus.path)}`"
    mixture = corpus.mixture
    mixed = f", mixed with statements and questions about the facts of `{_name_of(mixture.path)}`" if mixture else ""
    tokenizer = f"the tokenizer `{_name_of(corpus.tokenizer)}`" if corpus.tokenizer else "a tokenizer trained on it"
    return f"{num_tokens:,} tokens of {source}{mixed}, with {tokenizer}. `manifest.json` names its digest."


def _name_of(path: str) -> str:
    """The path as it may be shown: only the last part of a local folder, since a card is meant to
    be shared."""
    return path.rstrip("/").rsplit("/", 1)[-1] if path.startswith(("/", "~", ".")) else redacted(path)


def _terms(*, generated: bool, memory: bool) -> str:
    code = " `modeling_memory_llama.py` is part of memlm, which is under Apache-2.0." if memory else ""
    if generated:
        return f"Apache-2.0, like memlm and the text that it generates.{code}"
    return (
        "The weights are made from the data above, and the terms of that data say what may be done with them: "
        f"look them up before you pass the model on.{code}"
    )
