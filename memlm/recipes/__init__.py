"""Recipes: named configs. Each is a function; a variant copies another recipe and changes some
fields."""

from collections.abc import Callable

from memlm.config import Config
from memlm.recipes.laptop import (
    laptop,
    laptop_ablations,
    laptop_checkpoints,
    laptop_controls,
    laptop_layers,
    laptop_many_facts,
    laptop_passes,
    laptop_pools,
    laptop_rule,
    laptop_saturation,
    laptop_slots,
    laptop_tuning,
    laptop_updates,
    laptop_value_loss,
    laptop_wide,
    smoke,
)
from memlm.recipes.paper import paper_1b, paper_64m
from memlm.recipes.retrofit import laptop_retrofit, laptop_scratch
from memlm.recipes.smollm2 import (
    smollm2,
    smollm2_company,
    smollm2_handbook,
    smollm2_seal,
    smollm2_seal_alone,
    smollm2_triviaqa,
    smollm2_tuning,
)
from memlm.recipes.wiki import wiki, wiki_documents, wiki_rivals, wiki_rule, wiki_triviaqa, wiki_tuning, wiki_wide

RECIPES: dict[str, Callable[[], Config]] = {
    recipe.__name__: recipe
    for recipe in (
        laptop,
        laptop_rule,
        laptop_checkpoints,
        laptop_value_loss,
        laptop_many_facts,
        laptop_wide,
        laptop_controls,
        laptop_tuning,
        laptop_ablations,
        laptop_updates,
        laptop_saturation,
        laptop_passes,
        laptop_pools,
        laptop_layers,
        laptop_slots,
        laptop_scratch,
        laptop_retrofit,
        smoke,
        wiki,
        wiki_rule,
        wiki_wide,
        wiki_rivals,
        wiki_triviaqa,
        wiki_tuning,
        wiki_documents,
        smollm2,
        smollm2_tuning,
        smollm2_triviaqa,
        smollm2_seal,
        smollm2_seal_alone,
        smollm2_company,
        smollm2_handbook,
        paper_1b,
        paper_64m,
    )
}
