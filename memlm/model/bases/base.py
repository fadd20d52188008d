"""A base: a causal language model that somebody else trained, in a folder, on the hub or in a GGUF
file, which a Python package may hold.

It is data: none of its code runs, weights are read from safetensors or GGUF alone, and what memlm
cannot use is refused, with the remedy, before any weight is read.
"""

import copy
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from memlm import hub
from memlm.extras import needed_for
from memlm.free_memory import available_memory
from memlm.model.bases.packages import is_in_package, path_in_package
from memlm.model.decoders.families import PREFIX, UnknownFamily, family_of
from memlm.outside import reading, reason_of
from memlm.units import format_size

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
WEIGHTS, GGUF = ".safetensors", ".gguf"
FILES_OF_A_MODEL = ("model*.safetensors", "*.json", "*.model", "*.jinja", "vocab.txt", "merges.txt")
"""The files that are fetched from the hub."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Names that configurations have for the number of experts of a mixture."""
log = logging.getLogger(__name__)


class BaseError(ValueError):
    """A base that cannot be found, or that memlm cannot put a memory into."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base whose configuration has been read and accepted, but no weight yet."""

    address: str
    """As it was given; a path is absolute."""
    folder: Path
    config: PreTrainedConfig
    gguf: str | None = None
    """The name of the GGUF file in the folder, if the base is one."""

    @property
    def family(self) -> str:
        return self.config.model_type

    @property
    def files(self) -> list[str]:
        """The files with its weights, in the order of their names."""
        return [self.gguf] if self.gguf else sorted(path.name for path in self.folder.glob(f"*{WEIGHTS}"))

    @cached_property
    def digest(self) -> str:
        """sha256 of the files with its weights."""
        digests = []
        for name in self.files:
            with (self.folder / name).open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def loading(self) -> dict[str, str]:
        """What transformers' from_pretrained functions need besides the folder."""
        return {"gguf_file": self.gguf} if self.gguf else {}

    @property
    def stored_type(self) -> torch.dtype:
        """The type of its weights. GGUF's are dequantised to fp32."""
        return torch.float32 if self.gguf or self.config.dtype is None else self.config.dtype

    @property
    def num_parameters(self) -> int:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.config, trust_remote_code=False)
        return sum(parameter.numel() for parameter in model.parameters())


def open_base(address: str) -> Base:
    """The base at an address: a folder, a GGUF file, either of them in a package, or a model's id
    on the hub with its commit. Raises BaseError, UnknownFamily, HubError, MissingPackage or
    MissingExtra."""
    if is_in_package(address):
        return replace(open_base(str(path_in_package(address))), address=address)
    path = Path(address).expanduser()
    if path.suffix == GGUF:
        return _open_gguf(path)
    if path.is_dir():
        return _open_folder(str(path.resolve()), path.resolve())
    if path.exists():
        raise BaseError(f"base {address}: this is a file; name the folder that save_pretrained wrote, or a {GGUF} file")
    if address.startswith(("/", ".", "~")) or not hub.MODEL_ID.fullmatch(address):
        raise BaseError(
            f"base {address}: there is no such folder or file; give the path of a folder that save_pretrained wrote, of a {GGUF} file, "
            f"or a model on the hub as {hub.MODEL_FORM}"
        )
    return _open_folder(address, _from_hub(address))


def load_base(base: Base, *, dtype: torch.dtype | None = None, attention: str = "eager") -> PreTrainedModel:
    """The base's own model on the CPU, in evaluation mode, in a type or as it is stored. GGUF is
    dequantised, to fp32 if no type is given. Raises BaseError."""
    if base.gguf:
        log.warning("%s is quantised; its weights are dequantised", base.address)
    with _reading(base.address):
        model = AutoModelForCausalLM.from_pretrained(
            base.folder,
            config=copy.deepcopy(base.config),
            dtype=dtype or base.stored_type,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            **base.loading,
        )
    if base.gguf:  # transformers still calls it quantised, and would refuse to save it
        model.is_quantized, model.hf_quantizer = False, None
        del model.config.quantization_config
    return model.eval()


def require_room(base: Base, *, num_values: int, dtype: torch.dtype | None = None) -> None:
    """Raise BaseError if the base and that many values do not fit into the memory that is free."""
    itemsize, available, weights = (dtype or base.stored_type).itemsize, available_memory(), base.num_parameters
    needed = (weights + num_values) * itemsize
    if needed > available:
        raise BaseError(
            f"base {base.address}: ({weights:,} weights + {num_values:,} values) x {itemsize} bytes = {format_size(needed)}, "
            f"and {format_size(available)} of memory are free; take fewer slots, a smaller base, bf16, or a larger machine"
        )


def _open_folder(address: str, folder: Path) -> Base:
    if not (folder / CONFIG_FILE).is_file():
        raise BaseError(
            f"base {address}: it has no {CONFIG_FILE}; name the folder that save_pretrained wrote, or a {GGUF} file"
        )
    with _reading(address):
        fields = json.loads((folder / CONFIG_FILE).read_bytes())
        _require_usable(address, fields)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # A file may name a kernel on the hub, which transformers would fetch and run.
        config._attn_implementation = "eager"
        base = Base(address=address, folder=folder, config=config)
    if not base.files:
        raise BaseError(
            f"base {address}: it has no weights as safetensors, the only format that memlm reads besides GGUF; save it with save_pretrained again"
        )
    return base


def _open_gguf(path: Path) -> Base:
    if not path.is_file():
        raise BaseError(f"base {path}: there is no such file; give the path of a {GGUF} file or of a model's folder")
    with needed_for("a base in GGUF"):
        import gguf  # noqa: F401  # transformers imports it only when it reads the file
    path = path.resolve()
    with _reading(str(path)):
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        _require_usable(str(path), {"model_type": config.model_type, **_experts(config.to_dict())})
    return Base(address=str(path), folder=path.parent, config=config, gguf=path.name)


def _from_hub(model_id: str) -> Path:
    """The folder with the model's files in the hub client's cache. A commit's files never change,
    so a complete folder needs no request."""
    cached = hub.find_cached_model(model_id)
    if cached is not None and _is_complete(cached):
        return cached
    files = [file for file in hub.list_model(model_id) if _is_of_a_model(file.name)]
    weights = sum(file.bytes for file in files if file.name.endswith(WEIGHTS))
    if weights > available_memory():
        raise BaseError(
            f"base {model_id}: {format_size(weights)} of weights, and {format_size(available_memory())} of memory are free; "
            "take a smaller base or a larger machine"
        )
    if not weights:
        raise BaseError(
            f"base {model_id}: it has no weights as safetensors, the only format that memlm reads besides GGUF; name another"
        )
    # Weights come last, so that a folder with all of them has everything else.
    return hub.cached_model(model_id, sorted(files, key=lambda file: file.name.endswith(WEIGHTS)))


def _is_of_a_model(name: str) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in FILES_OF_A_MODEL)


def _is_complete(folder: Path) -> bool:
    """Whether all weights are there: those that the index lists, or one file without an index."""
    index = folder / INDEX_FILE
    if not index.is_file():
        return any(folder.glob(f"*{WEIGHTS}"))
    with _reading(str(index)):
        return all((folder / name).is_file() for name in json.loads(index.read_bytes())["weight_map"].values())


def _require_usable(address: str, fields: dict[str, Any]) -> None:
    """Raise BaseError or UnknownFamily for a configuration that memlm cannot put a memory into."""
    model_type = fields.get("model_type")
    if not isinstance(model_type, str):
        raise BaseError(f"base {address}: model_type is {model_type!r}; it must be a name such as 'llama'")
    if experts := _experts(fields):
        name, number = next(iter(experts.items()))
        raise BaseError(
            f"base {address}: {name} is {number} ({model_type}), so its feed-forward networks are mixtures of experts, which memlm does not "
            "put a memory next to; take a dense base"
        )
    try:
        family_of(model_type)
    except UnknownFamily as error:
        raise UnknownFamily(f"base {address}: {error}") from None
    if model_type.startswith(PREFIX):
        raise BaseError(
            f"base {address}: its model_type is {model_type}, so it has a memory already; teach it facts as it is, or attach to the base it was made of"
        )
    if quantisation := fields.get("quantization_config"):
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else quantisation
        raise BaseError(
            f"base {address}: it is quantised ({method}), and memlm refuses quantised folders; name the model that it was made of, "
            "or load it with transformers, call dequantize(), and save it"
        )


def _experts(fields: dict[str, Any]) -> dict[str, int]:
    """The entries that say how many experts a mixture has."""
    return {name: fields[name] for name in EXPERTS if isinstance(fields.get(name), int) and fields[name] > 1}


@contextmanager
def _reading(address: str) -> Iterator[None]:
    def refuse(reason: str) -> BaseError:
        return BaseError(
            f"base {address}: it cannot be read ({reason}); name a folder or file with a causal language model"
        )

    try:
        with reading(refuse):
            yield
    except OSError as error:  # transformers raises it, with several lines of text, for a missing file
        raise refuse(reason_of(error)) from error
