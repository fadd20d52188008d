"""Keys that fit background text: white queries, half-keys in their directions, all slots used."""

import pytest
import torch
from torch import Tensor

from memlm.model.bases.key_fitting import FittingError, fit_keys, spherical_k_means
from memlm.model.memory import MemoryLayer, ValuePool
from memlm.slots.counts import usage_of


def new_layer(hidden_size: int = 24, *, num_heads: int = 2, key_dim: int = 8, num_half_keys: int = 16) -> MemoryLayer:
    torch.manual_seed(0)
    layer = MemoryLayer(
        ValuePool(num_half_keys**2, 4),
        hidden_size=hidden_size,
        num_half_keys=num_half_keys,
        top_k=4,
        num_heads=num_heads,
        key_dim=key_dim,
        query_norm=True,
        passes_values=True,
    )
    layer.reset_parameters()
    return layer


def skewed_states(number: int, hidden_size: int = 24, *, seed: int = 1) -> Tensor:
    """Hidden states far from the origin, whose directions differ in variance by four orders."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(hidden_size, hidden_size, generator=torch.Generator().manual_seed(9))
    return 3 + (torch.randn(number, hidden_size, generator=generator) * torch.logspace(-2, 0, hidden_size)) @ mixing


def usage(layer: MemoryLayer, hidden: Tensor) -> dict[str, float]:
    slots, _ = layer.search(hidden)
    return usage_of(slots.flatten().bincount(minlength=layer.num_slots))


def test_queries_are_centred_and_white():
    layer, hidden = new_layer(), skewed_states(4000)
    fit_keys(layer, hidden, seed=0)
    queries = layer.query(hidden)
    torch.testing.assert_close(queries.mean(dim=0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(queries.T @ queries / len(queries), torch.eye(16), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("num_heads", "key_dim"), [(4, 16), (2, 30)])
def test_more_queries_than_components_are_white_within_a_rotation(num_heads, key_dim):
    layer, hidden = new_layer(num_heads=num_heads, key_dim=key_dim), skewed_states(4000)
    fit_keys(layer, hidden, seed=0)
    queries = layer.query(hidden)[:, :24]
    torch.testing.assert_close(queries.T @ queries / len(queries), torch.eye(24), atol=1e-3, rtol=0)
    assert torch.isfinite(layer.query.weight).all()


def test_directions_without_variance_are_left_out():
    hidden = skewed_states(4000)
    hidden[:, 5:] = hidden[:, 4:5]
    layer = new_layer()
    fit_keys(layer, hidden, seed=0)
    assert layer.query.weight.norm() < 1e3
    assert usage(layer, hidden)["share_read"] > 0.9


def test_text_that_was_not_fitted_uses_every_slot_evenly():
    layer, other = new_layer(), skewed_states(4000, seed=2)
    random = usage(layer, other)
    fit_keys(layer, skewed_states(4000), seed=0)
    fitted = usage(layer, other)
    assert fitted["share_read"] == 1 and fitted["top_1_percent"] < 0.1
    assert random["share_read"] < 0.9 and random["top_1_percent"] > 2 * fitted["top_1_percent"]


def test_a_half_key_scores_its_own_direction_with_eight():
    layer, hidden = new_layer(), skewed_states(4000)
    fit_keys(layer, hidden, seed=0)
    torch.testing.assert_close(layer.half_keys.norm(dim=-1), torch.full((2, 2, 16), 8 / 4**0.5))


def test_the_seed_decides():
    layers = [new_layer() for _ in range(3)]
    for layer, seed in zip(layers, (0, 0, 1), strict=True):
        fit_keys(layer, skewed_states(500), seed=seed)
    one, same, other = (torch.cat([layer.query.weight.flatten(), layer.half_keys.flatten()]) for layer in layers)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_too_little_text_is_refused_and_changes_nothing():
    layer = new_layer()
    before = layer.query.weight.clone()
    with pytest.raises(FittingError, match="15 tokens, fewer than the 16 half-keys"):
        fit_keys(layer, skewed_states(15), seed=0)
    assert torch.equal(layer.query.weight, before)


def test_k_means_finds_directions_and_leaves_no_center_without_points():
    generator = torch.Generator().manual_seed(0)
    directions = torch.eye(6)
    points = directions.repeat_interleave(50, dim=0) * torch.rand(300, 1, generator=generator).add(0.5)
    centers = spherical_k_means(points, 6, generator)
    assert (centers @ directions.T).max(dim=0).values.min() > 0.99
