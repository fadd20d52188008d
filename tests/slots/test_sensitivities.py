import pytest
import torch

from memlm.slots.reads import BackgroundReads
from memlm.slots.sensitivities import Sensitivities
from tests.support.tiny import MEMORIES, TWO_SEPARATE, background_reads, num_slots, tiny_model

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


def gradients_of(num_layers: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 5, num_layers, 4, generator=generator), torch.rand(3, 5, generator=generator) < 0.7


@pytest.mark.parametrize("pools", [[0], [0, 0], [0, 1], [0, 1, 0]])
def test_sums_are_the_plain_ones(pools):
    gradients, is_token = gradients_of(len(pools))
    found = Sensitivities.of_batch(gradients, is_token, pools=pools)
    of_rows, of_outputs = [], torch.zeros(max(pools) + 1, 4, 4, dtype=torch.float64)
    for token in gradients[is_token].double():
        for pool, of_layer in zip(pools, token, strict=True):
            of_rows.append(float(of_layer @ of_layer))
            of_outputs[pool] += of_layer[:, None] * of_layer
    assert found.of_rows.tolist() == pytest.approx(of_rows)
    torch.testing.assert_close(found.of_outputs, of_outputs)


def test_samples_merge_by_addition():
    first, second = (Sensitivities.of_batch(*gradients_of(2, seed), pools=[0, 1]) for seed in (0, 1))
    merged = first + second
    assert torch.equal(merged.of_rows, torch.cat([first.of_rows, second.of_rows]))
    assert torch.equal(merged.of_outputs, first.of_outputs + second.of_outputs)


def test_they_survive_saving(tmp_path):
    reads = background_reads(tiny_model(TWO_SEPARATE))
    reads.save(tmp_path / "reads.safetensors")
    loaded = BackgroundReads.load(tmp_path / "reads.safetensors").sensitivities
    assert torch.equal(loaded.of_rows, reads.sensitivities.of_rows) and loaded.of_rows.dtype == torch.float32
    assert torch.equal(loaded.of_outputs, reads.sensitivities.of_outputs) and loaded.of_outputs.dtype == torch.float64
    assert loaded.of_outputs.shape == (2, 10, 10) and len(loaded.of_rows) == len(reads.slots)


@every_memory
@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_weighted_moments_are_the_plain_ones(memory, exponent):
    model = tiny_model(memory)
    reads = background_reads(model)
    powers = reads.sensitivities.of_rows.double() ** exponent
    dense = torch.zeros(len(reads.slots), num_slots(model), dtype=torch.float64)
    dense.scatter_add_(1, reads.slots.long(), reads.weights.double())
    expected = dense.T @ (dense * powers[:, None]) / reads.num_tokens / powers.mean()
    found = reads.weighted(exponent)
    torch.testing.assert_close(found.second_moment(torch.arange(num_slots(model))), expected, rtol=1e-5, atol=1e-9)
    scaled = dense * (powers / powers.mean()).sqrt()[:, None]
    assert found.mean_square == pytest.approx(float(scaled.square().sum() / (dense > 0).sum()), rel=1e-5)
    assert found is reads.weighted(exponent)  # so what was made of it is made once


def test_an_exponent_of_zero_changes_no_bit():
    reads = background_reads(tiny_model())
    assert torch.equal(reads.weighted(0.0).weights, reads.weights)


def test_a_token_without_sensitivity_constrains_nothing():
    """Its reads add nothing to the moment, also where nothing else reads its slot."""
    reads = BackgroundReads(
        slots=torch.tensor([[0, 1], [1, 2]], dtype=torch.int32),
        weights=torch.full((2, 2), 0.5),
        num_tokens=2,
        num_slots=3,
        sensitivities=Sensitivities(of_rows=torch.tensor([0.0, 4.0]), of_outputs=torch.eye(4)[None].double()),
    )
    assert reads.second_moment(torch.arange(3)).diagonal().tolist() == [0.125, 0.25, 0.125]
    assert reads.weighted(0.5).second_moment(torch.arange(3)).diagonal().tolist() == pytest.approx([0.0, 0.25, 0.25])


def test_damping_is_by_a_directions_sensitivity_next_to_the_mean():
    """Halved where it is that many times the mean, whole where it is none."""
    turned = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()).Q
    sizes = torch.tensor([0.0, 1.0, 3.0, 8.0]).double()  # with a mean of 3
    of_outputs = torch.stack([torch.eye(4).double(), 1e-7 * turned @ sizes.diag() @ turned.T])
    found = Sensitivities(of_rows=torch.ones(5), of_outputs=of_outputs)
    for halved_at in (1.0, 3.0):
        damping = found.damping(1, halved_at)
        assert damping.dtype == torch.float32
        expected = turned @ (1 / (1 + sizes / 3 / halved_at)).diag() @ turned.T
        torch.testing.assert_close(damping, expected.float())
    torch.testing.assert_close(found.damping(0, 1.0), torch.eye(4) / 2)


def test_reads_with_and_without_do_not_stack():
    reads = background_reads(tiny_model())
    without = BackgroundReads(slots=reads.slots, weights=reads.weights, num_tokens=1, num_slots=81)
    with pytest.raises(ValueError, match=r"cannot be stacked.*move the folder reads-partial away.*count_accesses"):
        reads + without
    assert (without + without).sensitivities is None


def test_reads_of_an_earlier_version_are_refused_where_sensitivities_are_needed(tmp_path):
    reads = background_reads(tiny_model())
    BackgroundReads(slots=reads.slots, weights=reads.weights, num_tokens=1, num_slots=81).save(tmp_path / "old")
    with pytest.raises(ValueError, match=r"no sensitivities.*move the run's folder reads away and run pipelines/count"):
        BackgroundReads.load(tmp_path / "old").weighted(0.5)


def test_weighted_reads_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"weighted with the exponent 0.5; save the plain ones"):
        background_reads(tiny_model()).weighted(0.5).save(tmp_path / "reads")


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_sensitivities_without_a_mean_are_refused(value):
    found = Sensitivities(of_rows=torch.full((3,), value), of_outputs=torch.full((1, 2, 2), value).double())
    with pytest.raises(ValueError, match=r"mean sensitivity of 3 background reads is .*must be above 0 and finite"):
        found.weights_of_rows(0.5)
    with pytest.raises(ValueError, match=r"mean sensitivity of the outputs of pool 0 is .*raise counting.read_tokens"):
        found.damping(0, 3.0)
