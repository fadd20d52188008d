"""Names of the classes and the file of a family with memory: transformers' own, with "Memory" in
front."""

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from memlm.model.decoders.families import PREFIX

AUTO_TABLES = {
    "AutoConfig": CONFIG_MAPPING_NAMES,
    "AutoModel": MODEL_MAPPING_NAMES,
    "AutoModelForCausalLM": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
}
"""transformers' names of classes by model type, by the Auto class that loads them."""


def base_names(family: str) -> dict[str, str]:
    """The names of a family's own classes by Auto class. A family may lack a classifier."""
    return {auto: names[family] for auto, names in AUTO_TABLES.items() if family in names}


def file_name(family: str) -> str:
    """The modelling file in a folder of the family with memory."""
    return f"modeling_{PREFIX}{family}.py"


def auto_map(family: str) -> dict[str, str]:
    """The entry of config.json that tells transformers where the classes are
    (https://huggingface.co/docs/transformers/custom_models)."""
    module = file_name(family).removesuffix(".py")
    return {auto: f"{module}.Memory{name}" for auto, name in base_names(family).items()}
