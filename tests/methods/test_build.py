import pytest

from memlm.data.questions.facts import Fact
from memlm.data.questions.records import Question
from memlm.methods.config import OptimizerConfig, RehearsalConfig
from memlm.methods.full import FullConfig, FullFinetuning
from memlm.methods.in_context import InContext
from memlm.methods.lora import LoRAConfig
from memlm.methods.method import LearningInputs, Method
from memlm.methods.parts.adapters import MergedAdapter
from memlm.methods.parts.curvature_finetuning import CurvatureFinetuning
from memlm.methods.parts.decorrelated_finetuning import DecorrelatedFinetuning
from memlm.methods.parts.sparse_memory_finetuning import SparseMemoryFinetuning
from memlm.methods.registry import METHOD_CONFIGS
from memlm.methods.retrieval import Retrieval
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig
from tests.support.tiny import background_reads, random_background, random_statements, sparse_config, tiny_model

METHODS = {
    "sparse_memory": SparseMemoryFinetuning,
    "sparse_memory_curvature": CurvatureFinetuning,
    "sparse_memory_decorrelated": DecorrelatedFinetuning,
    "lora": MergedAdapter,
    "lora_memory": MergedAdapter,
    "full": FullFinetuning,
    "full_memory": FullFinetuning,
    "in_context": InContext,
    "retrieval": Retrieval,
}
FACTS = [
    Fact(
        id="a",
        statements=("Ada was born in London.", "London saw the birth of Ada."),
        questions=(Question(id="a#0", question="Where was Ada born?", answers=("London",)),),
    ),
    Fact(id="b", statements=("Bo plays the harp.",), questions=()),
]


@pytest.mark.parametrize("name", METHOD_CONFIGS)
def test_each_config_builds_its_method(name):
    config = sparse_config() if name == "sparse_memory" else METHOD_CONFIGS[name]()
    model = tiny_model(dense=config.base == "dense")
    background = random_background(model) if config.base == "memory" else None
    reads = background_reads(model) if config.uses_reads else None
    inputs = LearningInputs(background=background, seed=0, facts=FACTS, reads=reads, statements=random_statements)
    assert isinstance(config.build(model, inputs), METHODS.get(name, Method))


def test_sparse_memory_without_background_counts_is_refused():
    with pytest.raises(ValueError, match="run pipelines/count_accesses.py"):
        sparse_config().build(tiny_model(), LearningInputs(background=None, seed=0))


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (OptimizerConfig, {"learning_rate": 0.0}, "learning_rate is 0.0"),
        (OptimizerConfig, {"weight_decay": -1.0}, "weight_decay is -1.0"),
        (SparseMemoryConfig, {"num_trainable_slots": -1}, "num_trainable_slots is -1"),
        (LoRAConfig, {"rank": 0}, "rank is 0"),
        (LoRAConfig, {"alpha": 0.0}, "alpha is 0.0"),
        (LoRAConfig, {"update_scale": 1.5}, "update_scale is 1.5; it must lie between 0"),
        (FullConfig, {"update_scale": -0.1}, "update_scale is -0.1; it must lie between 0"),
        (OptimizerConfig, {"warmup_share": 1.0}, "warmup_share is 1.0"),
        (SparseMemoryConfig, {"optimizer": OptimizerConfig(kind="sgd", schedule="linear")}, "schedule is linear"),
        (FullConfig, {"optimizer": OptimizerConfig(kind="row_sparse_adamw")}, "full selects none"),
        (
            SparseMemoryDecorrelatedConfig,
            {"optimizer": OptimizerConfig(kind="sgd", schedule="linear")},
            "schedule is linear",
        ),
        (RehearsalConfig, {"fisher_blocks": 0}, "fisher_blocks is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)
