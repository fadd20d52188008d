"""Compiled and exported models are one graph, and give the same results as the model itself."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from memlm.model import operators
from memlm.model.kernels import native, reference
from memlm.model.kernels.reference import candidate_pairs
from memlm.model.memory import MemoryLayer, ValuePool
from memlm.model.weighted_read import RowGradients, TrainableRows
from tests.support.tiny import MEMORY, TWO_SHARED, random_batch, tiny_model

SLOW = pytest.mark.slow
MODELS = {"memory": (TWO_SHARED, False), "dense": (MEMORY, True)}
every_model = pytest.mark.parametrize(("memory", "dense"), MODELS.values(), ids=MODELS)
needs_onnx = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import onnx, onnxscript"], capture_output=True).returncode != 0,
    reason="onnx and onnxscript are not installed; `pip install memlm[dev]` brings them",
)


class Logits(torch.nn.Module):
    """The model with a tensor as its output."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


def tokens_of(seed=0, lengths=(7, 5, 6, 3)):
    return random_batch(seed, lengths=lengths).tokens


def gradients_of(logits, model):
    loss = logits.float().square().mean()
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# The operators


def search_inputs(dtype=torch.float32, *, grad=False):
    torch.manual_seed(0)
    return (
        torch.randn(5, 2, 6, dtype=dtype, requires_grad=grad),
        torch.randn(2, 2, 9, 3, dtype=dtype, requires_grad=grad),
        3,
    )


def read_inputs(dtype=torch.float32, *, grad=False):
    torch.manual_seed(0)
    return (
        torch.randn(20, 7).to(dtype).requires_grad_(grad),
        torch.randint(0, 20, (5, 6)),
        torch.randn(5, 6, requires_grad=grad),
    )


@pytest.mark.parametrize("grad", [False, True])
def test_the_search_passes_torchs_operator_checks(grad):
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")  # the fourth adds slots to scores
    torch.library.opcheck(operators.product_key_search, search_inputs(grad=grad), test_utils=checks)
    queries, half_keys, top_k = search_inputs()
    slots, scores = operators.product_key_search(queries, half_keys, top_k)
    torch.library.opcheck(operators.product_key_search_backward, (torch.randn_like(scores), slots, queries, half_keys))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("grad", [False, True])
def test_the_read_passes_torchs_operator_checks(grad, dtype):
    torch.library.opcheck(operators.weighted_read, read_inputs(dtype, grad=grad))
    values, slots, weights = read_inputs(dtype)
    for needed in ((True, True), (True, False), (False, True)):
        inputs = (torch.randn(5, 7).to(dtype), values, slots, weights, *needed)
        torch.library.opcheck(operators.weighted_read_backward, inputs)


@pytest.mark.parametrize("heads, tokens, n, top_k", [(2, 5, 9, 3), (1, 1, 1, 1), (3, 7, 40, 17), (2, 4, 6, 6)])
def test_the_search_in_plain_operators_equals_the_kernels(heads, tokens, n, top_k):
    plain = torch._decomp.decomposition_table[torch.ops.memlm.product_key_search.default]
    generator = torch.Generator().manual_seed(n)
    queries = torch.randn(tokens, heads, 6, generator=generator)
    half_keys = torch.randn(heads, 2, n, 3, generator=generator)
    for found, expected in zip(
        plain(queries, half_keys, top_k), operators.product_key_search(queries, half_keys, top_k), strict=True
    ):
        torch.testing.assert_close(found, expected)


# Compilers


@pytest.mark.parametrize(
    ("memory", "dense", "dtype", "shapes"),
    [
        pytest.param(MEMORY, False, torch.float32, [(7, 5)], id="memory"),
        # After a second shape the compiler treats sizes as symbols.
        pytest.param(TWO_SHARED, False, torch.float32, [(7, 5, 6, 3), (4, 2)], marks=SLOW, id="memory, any shape"),
        pytest.param(MEMORY, False, torch.float16, [(7, 5)], marks=SLOW, id="memory, fp16"),
        pytest.param(MEMORY, True, torch.float32, [(7, 5, 6, 3), (4, 2)], marks=SLOW, id="dense"),
    ],
)
def test_a_compiled_model_is_one_graph_and_computes_the_same_bits_forward_and_backward(memory, dense, dtype, shapes):
    model = Logits(tiny_model(memory, dense=dense)).to(dtype)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for seed, lengths in enumerate(shapes):
        tokens = tokens_of(seed, lengths)
        expected = model(tokens)
        found = compiled(tokens)
        assert torch.equal(found, expected)
        for one, other in zip(gradients_of(found, model), gradients_of(expected, model), strict=True):
            assert torch.equal(one, other)


def new_layer():
    torch.manual_seed(0)
    pool = ValuePool(81, 10)
    layer = MemoryLayer(pool, hidden_size=12, num_half_keys=9, top_k=3, num_heads=2, key_dim=6, query_norm=True)
    for module in (pool, layer):
        module.reset_parameters()
    return layer, torch.randn(5, 12)


def test_a_compiled_layer_searches_in_fp32_under_autocast():
    layer, hidden = new_layer()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(hidden), layer(hidden))


@pytest.mark.parametrize("kernels", [reference, native], ids=["plain torch", "C++"])
def test_the_kernels_are_looked_up_when_the_program_runs(monkeypatch, kernels):
    if kernels is native and not native.is_available():
        pytest.skip("no C++ compiler builds the kernels here")
    (layer, hidden), used = new_layer(), []
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    expected = compiled(hidden)

    def chosen(tensor):
        used.append(type(tensor))
        return kernels

    monkeypatch.setattr(operators, "kernels_for", chosen)
    torch.testing.assert_close(compiled(hidden), expected)
    assert used and FakeTensor not in used


def test_settings_of_a_step_apply_to_a_compiled_layer_too():
    """Trainable rows and row gradients leave the graph; they are not part of an exported
    program."""
    layer, hidden = new_layer()
    compiled = torch.compile(layer, backend="aot_eager")
    compiled(hidden)
    slots, found = torch.arange(0, 81, 3), []
    for run in (layer, compiled):
        rows = layer.pool.weight.detach()[slots].requires_grad_(True)
        with layer.pool.sending_gradients_to(TrainableRows(slots, rows)):
            run(hidden).square().mean().backward()
        with layer.pool.sending_gradients_to(RowGradients()):
            run(hidden).square().mean().backward()
            (gradient,) = layer.pool.gradient_target.parts
        found.append((rows.grad, gradient.slots, gradient.rows))
    for one, other in zip(*found, strict=True):
        assert one.numel() and torch.equal(one, other)


@SLOW
@every_model
def test_the_default_compiler_gives_the_same_results(memory, dense):
    if not native.is_available():
        pytest.skip("no C++ compiler, which torch.compile needs as the kernels do")
    model = Logits(tiny_model(memory, dense=dense))
    compiled = torch.compile(model, fullgraph=True)
    expected, found = model(tokens_of()), compiled(tokens_of())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients_of(found, model), gradients_of(expected, model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# Exporters


@every_model
@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=SLOW)])
def test_an_exported_model_computes_the_same_bits_in_any_batch_shape(memory, dense, strict):
    model = Logits(tiny_model(memory, dense=dense))
    sizes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("seq", min=2, max=64)}
    exported = torch.export.export(model, (tokens_of(),), dynamic_shapes={"input_ids": sizes}, strict=strict)
    searches = [node for node in exported.graph.nodes if node.target is torch.ops.memlm.product_key_search.default]
    assert len(searches) == (0 if dense else len(memory.layers))
    with torch.no_grad():
        for seed, lengths in ((0, (7, 5, 6, 3)), (1, (4, 2))):
            tokens = tokens_of(seed, lengths)
            assert torch.equal(exported.module()(tokens), model(tokens))


def test_an_exported_layer_is_loaded_from_a_file(tmp_path):
    layer, hidden = new_layer()
    torch.export.save(torch.export.export(layer, (hidden,)), tmp_path / "layer.pt2")
    loaded = torch.export.load(tmp_path / "layer.pt2")
    with torch.no_grad():
        assert torch.equal(loaded.module()(hidden), layer(hidden))


@pytest.mark.slow
def test_an_export_that_fails_leaves_nothing_behind():
    """In a process of its own, in which the model first runs during the export."""
    code = """
import torch
from dataclasses import replace
from tests.support.tiny import MEMORY, random_batch, tiny_model
from memlm.model.kernels import reference
from memlm.model import operators

operators.kernels_for = lambda tensor: reference
model, tokens = tiny_model(replace(MEMORY, top_k=5)), random_batch(0).tokens

def refuse(*_):
    raise RuntimeError("refused")

hook = model.model.layers[2].register_forward_hook(refuse)
for attempt in (
    lambda: torch.export.export(model, (tokens,), strict=False),
    lambda: torch.export.export(model, (tokens,), strict=True),
    lambda: torch.compile(model, backend="eager", fullgraph=True)(tokens),
):
    try:
        attempt()
    except Exception as error:
        assert "refused" in str(error) or type(error).__name__ == "Unsupported", error
    else:
        raise SystemExit("nothing was refused")
hook.remove()
for each in (model, tiny_model(replace(MEMORY, top_k=5))):
    print(float(each(input_ids=tokens).logits.detach().double().sum()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after, fresh = done.stdout.split()
    assert after == fresh


def test_fake_tensors_run_through_the_model_and_are_not_cached():
    model = Logits(tiny_model(TWO_SHARED))
    expected = model(tokens_of())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert isinstance(mode.from_tensor(expected), FakeTensor)
        found = model(mode.from_tensor(tokens_of()))
        assert isinstance(found, FakeTensor) and found.shape == expected.shape
        reference.search(torch.randn(2, 2, 3, 23), 11)
        assert isinstance(candidate_pairs(11, torch.device("cpu"))[0], FakeTensor)
    assert torch.equal(model(tokens_of()), expected)
    assert not isinstance(candidate_pairs(11, torch.device("cpu"))[0], FakeTensor)
    reference.search(torch.randn(2, 2, 3, 23), 11)


def test_ranks_made_in_inference_mode_serve_training_too():
    with torch.inference_mode():
        candidate_pairs(13, torch.device("cpu"))
    assert not candidate_pairs(13, torch.device("cpu"))[0].is_inference()


@needs_onnx
@SLOW
@pytest.mark.filterwarnings("ignore")
@every_model
@pytest.mark.parametrize("exported_first", [False, True], ids=["the model", "an exported program"])
def test_onnx_gives_the_same_results(memory, dense, exported_first):
    from onnx.reference import ReferenceEvaluator

    model = Logits(tiny_model(memory, dense=dense))
    sizes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("seq", min=2, max=64)}
    if exported_first:
        program = torch.onnx.export(torch.export.export(model, (tokens_of(),)), (tokens_of(),), verbose=False)
    else:
        program = torch.onnx.export(
            model, (tokens_of(),), dynamic_shapes={"input_ids": sizes}, dynamo=True, verbose=False
        )
    assert {node.domain for node in program.model_proto.graph.node} == {""}
    evaluator = ReferenceEvaluator(program.model_proto)
    for seed, lengths in [(0, (7, 5, 6, 3)), *([] if exported_first else [(1, (4, 2))])]:
        tokens = tokens_of(seed, lengths)
        (found,) = evaluator.run(None, {"input_ids": tokens.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(tokens), rtol=1e-4, atol=1e-5)
