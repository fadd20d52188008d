"""Every method, by its name."""

from memlm.methods.config import MethodConfig, SparseMemoryConfig
from memlm.methods.full import FullConfig, FullMemoryConfig
from memlm.methods.in_context import InContextConfig
from memlm.methods.lora import LoRAConfig
from memlm.methods.retrieval import RetrievalConfig

METHOD_CONFIGS: dict[str, type[MethodConfig]] = {
    config.name: config
    for config in (SparseMemoryConfig, LoRAConfig, FullConfig, FullMemoryConfig, InContextConfig, RetrievalConfig)
}
