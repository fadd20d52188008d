from importlib import import_module

import pytest

import tune_spaces
from memlm.config import SweepConfig
from memlm.methods.registry import METHOD_CONFIGS
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.recipes import RECIPES
from tune_spaces import load_spaces

METHODS = SweepConfig().methods
SCALES = ("laptop", "laptop_rule", "laptop_wide", "smoke", "wiki", "wiki_wide", "paper", "documents")
WIDE = [name for name, module in tune_spaces.modules().items() if "laptop_wide" in import_module(module).SPACES]

every_method = pytest.mark.parametrize("method", METHODS)


def settings_of(method: str, scale: str) -> list:
    (space,) = load_spaces([method], scale)
    return space.settings()


@pytest.mark.parametrize("scale", SCALES)
@every_method
def test_every_space_resolves_to_settings_of_its_method(method, scale):
    settings = settings_of(method, scale)
    assert len(settings) >= 2 and len(set(settings)) == len(settings)
    assert {type(setting) for setting in settings} == {METHOD_CONFIGS[method]}
    # A setting under another label would be drawn as a control, and not on the method's frontier.
    assert {setting.label for setting in settings} == {method}


@every_method
def test_settings_come_in_the_same_order_every_time(method):
    assert settings_of(method, "laptop") == settings_of(method, "laptop")


@every_method
def test_the_laptop_sweeps_at_least_six_settings_over_a_wide_range_of_rates(method):
    settings = settings_of(method, "laptop")
    assert len(settings) >= 6
    rates = {setting.optimizer.learning_rate for setting in settings}
    assert max(rates) >= 10 * min(rates)


@pytest.mark.parametrize(("scale", "methods"), [("laptop", METHODS), ("laptop_wide", WIDE), ("wiki_wide", WIDE)])
def test_all_methods_of_a_scale_have_as_many_settings(scale, methods):
    numbers = {method: len(settings_of(method, scale)) for method in methods}
    assert set(METHODS) <= set(methods) and len(set(numbers.values())) == 1, numbers


def test_the_wide_scales_go_beyond_the_usual_lora():
    """LoRA of ranks 16, 64 and 128, with another alpha than the rank, and on attention alone."""
    for scale in ("laptop_wide", "wiki_wide"):
        settings = settings_of("lora", scale)
        assert {setting.rank for setting in settings} >= {16, 64, 128}
        assert any(setting.alpha != setting.rank for setting in settings)
        assert {setting.target for setting in settings} == {"all", "attention"}


def test_the_papers_values_are_in_the_papers_space():
    """Lin et al. 2025, section 5 and figure 5."""
    lora = {(setting.rank, setting.alpha / setting.rank) for setting in settings_of("lora", "paper")}
    assert lora == {(rank, share) for rank in (32, 128, 256) for share in (0.5, 1, 2, 4)}
    full = {setting.optimizer.learning_rate for setting in settings_of("full", "paper")}
    assert full == {2e-6, 5e-6, 2e-5, 5e-5}
    sparse = {
        (setting.num_trainable_slots, setting.optimizer.learning_rate)
        for setting in settings_of("sparse_memory", "paper")
    }
    assert {(t, rate) for t in (25, 50, 100, 200, 500, 1000) for rate in (0.1, 2)} <= sparse


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_sweeps_exists_and_fits_its_model(recipe):
    config = RECIPES[recipe]()
    spaces = load_spaces(config.sweep.methods, config.sweep.scale)
    for space, method in zip(spaces, config.sweep.methods, strict=True):
        labels = {setting.label for setting in space.settings()}
        assert labels == {method} or method.startswith("ablate_"), "drawn under the name it was asked for by"
    settings = [setting for space in spaces for setting in space.settings()]
    slots = [setting.num_trainable_slots for setting in settings if isinstance(setting, SparseMemoryConfig)]
    assert slots and max(slots) <= config.model.memory.num_slots * config.model.memory.num_pools


@pytest.mark.parametrize(
    "methods, scale, named",
    [
        (["lorra"], "laptop", "sweep.methods names 'lorra'; did you mean 'lora'?"),
        (["lora", "ful"], "laptop", "sweep.methods names 'ful'; did you mean 'full'?"),
        (["lora"], "laptp", "sweep.scale of lora names 'laptp'; did you mean 'laptop'?"),
        (["sparse_memory"], "", "sweep.scale of sparse_memory names ''; did you mean "),
    ],
)
def test_an_unknown_method_or_scale_is_refused_with_the_nearest(methods, scale, named):
    with pytest.raises(ValueError) as refused:
        load_spaces(methods, scale)
    assert str(refused.value).startswith(named)
    known = str(refused.value).rsplit("Known: ", 1)[1].split(", ")
    assert known == sorted(known) and ({"full", "lora", "sparse_memory"} <= set(known) or set(SCALES) <= set(known))


EVERY_SPACE = sorted(tune_spaces.modules())


@pytest.mark.parametrize("name", EVERY_SPACE)
def test_every_space_has_settings_at_every_scale_that_needs_no_cluster(name):
    for scale in ("laptop", "smoke", "wiki"):
        settings = settings_of(name, scale)
        assert settings and len(set(settings)) == len(settings)
