import filecmp
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from memlm import storage
from memlm.kinds import CHECKPOINT_KIND, PATCH_FILE, PATCH_KIND
from memlm.methods.config import OptimizerConfig
from memlm.methods.full import FullConfig, FullFinetuning
from memlm.methods.lora import LoRA, LoRAConfig
from memlm.methods.sparse_memory import SparseMemoryFinetuning
from memlm.model.config import MemoryConfig, ModelConfig
from memlm.model.language_model import build_model, model_config
from memlm.storage import DamagedArtifact
from memlm.training.patch import (
    PatchError,
    apply_patch,
    changed_rows,
    read_patch,
    save_patch,
    stored_weights,
    undo_patch,
)
from memlm.training.step import finetune_step
from tests.support.tiny import (
    EOS,
    PAD,
    TWO_SEPARATE,
    VOCAB_SIZE,
    random_background,
    random_batch,
    sparse_config,
    state,
    tiny_model,
)

CONFIG = {"architecture": "memory", "model": {"num_layers": 3}}
INPUTS = {"corpus": "abc"}
ONE_FILE, SHARDED = "1GB", "4KB"


def base_model(method: str) -> nn.Module:
    return tiny_model(TWO_SEPARATE, dense=method != "sparse_memory")


def learn(method: str, model: nn.Module) -> nn.Module:
    fixed = OptimizerConfig(kind="adamw", learning_rate=0.01)
    if method == "sparse_memory":
        learner = SparseMemoryFinetuning(model, sparse_config(), random_background(model), seed=0)
    elif method == "lora":
        learner = LoRA(model, LoRAConfig(rank=2, optimizer=fixed), seed=0)
    else:
        learner = FullFinetuning(model, FullConfig(optimizer=fixed))
    for seed in range(2):
        finetune_step(learner, [random_batch(seed)])
    return learner.finish()


def write_checkpoint(uri: Path, model: nn.Module, *, shard: str = ONE_FILE, config: dict = CONFIG) -> str:
    with storage.write_artifact(str(uri), kind=CHECKPOINT_KIND, config=config, inputs=INPUTS) as draft:
        model.save_pretrained(draft.path, max_shard_size=shard)
    return str(uri)


def write_patch(uri: Path, checkpoint: str, before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    inputs = {"checkpoint": storage.read_manifest(checkpoint).digest}
    with storage.write_artifact(str(uri), kind=PATCH_KIND, config={"method": uri.name}, inputs=inputs) as draft:
        save_patch(changed_rows(before, after), draft.path / PATCH_FILE)
    return str(uri)


def learned_patch(folder: Path, method: str, shard: str = ONE_FILE) -> tuple[str, str, dict[str, Tensor]]:
    """A checkpoint, what a method learned from it as a patch, and the learned weights."""
    model = base_model(method)
    checkpoint = write_checkpoint(folder / "base", model, shard=shard)
    before = state(model)
    after = state(learn(method, model))
    return checkpoint, write_patch(folder / "patch", checkpoint, before, after), after


def files_of(uri: str) -> list[str]:
    return sorted(str(path.relative_to(uri)) for path in Path(uri).rglob("*") if path.is_file())


def stored(uri: str) -> dict[str, Tensor]:
    tensors = {}
    for path in sorted(Path(uri).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    return tensors


def same_bits(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(
        first.flatten().view(torch.uint8), second.flatten().view(torch.uint8)
    )


@pytest.mark.parametrize("method", ["sparse_memory", "full"])
def test_stored_weights_are_those_of_the_files(tmp_path, method):
    model = base_model(method)
    files, held = stored(write_checkpoint(tmp_path / "base", model)), stored_weights(model)
    assert files.keys() == held.keys() and all(same_bits(files[name], held[name]) for name in files)


@pytest.mark.parametrize("shard", [ONE_FILE, SHARDED])
@pytest.mark.parametrize("method", ["sparse_memory", "lora", "full"])
def test_apply_gives_the_learned_weights_and_undo_the_very_files(tmp_path, method, shard):
    checkpoint, patch, learned = learned_patch(tmp_path, method, shard)
    assert (len(list(Path(checkpoint).glob("*.safetensors"))) > 3) == (shard == SHARDED)
    patched, undone = str(tmp_path / "patched"), str(tmp_path / "undone")
    apply_patch(checkpoint, patch, patched)
    weights = stored(patched)
    assert weights.keys() == learned.keys()
    assert all(same_bits(weights[name], learned[name]) for name in learned)
    loaded = AutoModelForCausalLM.from_pretrained(storage.open_artifact(patched, kind=CHECKPOINT_KIND))
    assert all(same_bits(value, learned[name]) for name, value in loaded.state_dict().items())

    undo_patch(patched, patch, undone)
    assert files_of(undone) == files_of(checkpoint)
    content = files_of(checkpoint)  # the manifest too
    assert filecmp.cmpfiles(checkpoint, undone, content, shallow=False) == (content, [], [])
    assert filecmp.cmpfiles(checkpoint, patched, content, shallow=False)[1] != []
    assert storage.read_manifest(undone).digest == storage.read_manifest(checkpoint).digest


@pytest.mark.parametrize("card", ["as it was written", "changed", "taken away", "a link"])
def test_the_model_card_goes_along_as_it_is(tmp_path, card):
    checkpoint, patch, _ = learned_patch(tmp_path, "full")
    place = Path(checkpoint) / "README.md"
    if card == "a link":
        place.symlink_to("/dev/zero")
    elif card != "taken away":
        place.write_text(card)
    before = files_of(checkpoint)
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    undo_patch(str(tmp_path / "patched"), patch, str(tmp_path / "undone"))
    for folder in ("patched", "undone"):
        copied = tmp_path / folder / "README.md"
        assert copied.exists() == (card in ("as it was written", "changed"))
        assert not copied.exists() or copied.read_text() == card
    assert files_of(checkpoint) == before


def test_what_was_undone_can_be_patched_again(tmp_path):
    checkpoint, patch, _ = learned_patch(tmp_path, "sparse_memory")
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    undo_patch(str(tmp_path / "patched"), patch, str(tmp_path / "undone"))
    apply_patch(str(tmp_path / "undone"), patch, str(tmp_path / "again"))
    assert (
        storage.read_manifest(str(tmp_path / "again")).digest == storage.read_manifest(str(tmp_path / "patched")).digest
    )


def test_a_patch_holds_the_changed_rows_and_no_other(tmp_path):
    model = base_model("sparse_memory")
    before = state(model)
    after = state(learn("sparse_memory", model))
    _, patch, _ = learned_patch(tmp_path, "sparse_memory")
    held = dict(read_patch(Path(patch, PATCH_FILE)))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert sorted(held) == changed and all("value_pools" in name for name in changed)
    for name, change in held.items():
        rows = (before[name] != after[name]).any(dim=1).nonzero().flatten()
        assert change.rows.tolist() == rows.tolist() and 0 < len(rows) <= 12
        assert same_bits(change.before, before[name][rows]) and same_bits(change.after, after[name][rows])
    with safe_open(Path(patch, PATCH_FILE), framework="pt") as file:
        numbers = sum(file.get_tensor(name).numel() for name in file.keys())
    assert numbers == sum(len(change.rows) * (1 + 2 * change.before.shape[1]) for change in held.values())


def test_learning_nothing_is_a_patch_that_changes_nothing(tmp_path):
    model = base_model("full")
    checkpoint = write_checkpoint(tmp_path / "base", model)
    patch = write_patch(tmp_path / "patch", checkpoint, state(model), state(model))
    assert dict(read_patch(Path(patch, PATCH_FILE))) == {}
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    assert all(same_bits(value, stored(checkpoint)[name]) for name, value in stored(str(tmp_path / "patched")).items())


NAN = float("nan")


@pytest.mark.parametrize(
    "before, after, rows",
    [
        ([[1.0, NAN], [2.0, 3.0]], [[1.0, NAN], [2.0, 3.0]], []),
        ([[1.0, 2.0], [0.0, 3.0]], [[1.0, 2.0], [-0.0, 3.0]], [1]),
        ([[-0.0, 2.0], [0.0, 3.0]], [[0.0, 2.0], [0.0, 3.0]], [0]),
        ([[1.0, 2.0], [3.0, 4.0]], [[NAN, 2.0], [3.0, 4.0]], [0]),
        ([[NAN, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, float("inf")]], [0, 1]),
    ],
)
def test_rows_differ_by_their_bits(before, after, rows):
    patch = changed_rows({"w": torch.tensor(before)}, {"w": torch.tensor(after)})
    assert (patch["w"].rows.tolist() if patch else []) == rows


def test_nans_of_other_bits_are_other_values():
    quiet, loud = (torch.tensor([bits], dtype=torch.int32).view(torch.float32) for bits in (0x7FC00000, 0x7FC00001))
    assert changed_rows({"w": quiet}, {"w": quiet}) == {}
    assert changed_rows({"w": quiet}, {"w": loud})["w"].rows.tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3), (5, 2, 3)])
def test_rows_of_every_shape_and_type(tmp_path, shape, dtype):
    before = (torch.arange(30).to(dtype)[: torch.Size(shape).numel()]).view(shape)
    after = before.clone()
    after[3] = 7
    after[0].view(-1)[-1:] = 9
    save_patch(changed_rows({"w": before}, {"w": after}), tmp_path / "p")
    ((name, change),) = read_patch(tmp_path / "p")
    assert (name, change.rows.tolist(), change.after.dtype) == ("w", [0, 3], dtype)
    assert same_bits(change.after, after[[0, 3]]) and same_bits(change.before, before[[0, 3]])


TINY = 2.0**-149


def test_special_values_survive_apply_and_undo(tmp_path):
    """Signed zeros, the smallest and the largest numbers, and a NaN that no row of the patch
    holds."""
    model = base_model("full")
    weight = model.model.norm.weight.data
    weight[:3] = torch.tensor([NAN, -0.0, 0.0])
    checkpoint, before = write_checkpoint(tmp_path / "base", model), state(model)
    weight[:5] = torch.tensor([NAN, 0.0, -0.0, TINY, -torch.finfo(torch.float32).max])
    patch = write_patch(tmp_path / "patch", checkpoint, before, state(model))
    assert [change.rows.tolist() for _, change in read_patch(Path(patch, PATCH_FILE))] == [[1, 2, 3, 4]]
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    assert same_bits(stored(str(tmp_path / "patched"))["model.norm.weight"], weight)
    undo_patch(str(tmp_path / "patched"), patch, str(tmp_path / "undone"))
    assert storage.read_manifest(str(tmp_path / "undone")).files == storage.read_manifest(checkpoint).files


@pytest.mark.parametrize(
    "after, named",
    [
        ({"v": torch.zeros(2, 2)}, "other weights than its base"),
        ({"w": torch.zeros(2, 2), "lora": torch.zeros(1)}, "lora"),
        ({"w": torch.zeros(3, 2)}, r"w has shape \(3, 2\) after learning and \(2, 2\) before"),
    ],
)
def test_a_learned_model_of_another_shape_is_refused(after, named):
    with pytest.raises(PatchError, match=named):
        changed_rows({"w": torch.zeros(2, 2)}, after)


@pytest.fixture
def chain(tmp_path) -> tuple[str, str, str]:
    """A base, a patch and the patched checkpoint."""
    checkpoint, patch, _ = learned_patch(tmp_path, "sparse_memory")
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    return checkpoint, patch, str(tmp_path / "patched")


def assert_refused(error: type[Exception], match: str, change, checkpoint: str, patch: str, output: Path) -> None:
    with pytest.raises(error, match=match):
        change(checkpoint, patch, str(output))
    assert not storage.has_artifact(str(output)) and storage.list_names(str(output)) == []


def test_apply_refuses_another_base(chain, tmp_path):
    _, patch, patched = chain
    other = write_checkpoint(tmp_path / "other", tiny_model(TWO_SEPARATE, seed=1))
    for wrong in (other, patched):  # a patch is not applied twice
        assert_refused(PatchError, "learned from another checkpoint", apply_patch, wrong, patch, tmp_path / "output")


def test_undo_refuses_a_checkpoint_without_this_patch(chain, tmp_path):
    checkpoint, patch, patched = chain
    before = state(base_model("sparse_memory"))
    after = {name: value + 1 if "value_pools" in name else value for name, value in before.items()}
    other = write_patch(tmp_path / "other", checkpoint, before, after)
    assert_refused(PatchError, "was not applied to", undo_patch, checkpoint, patch, tmp_path / "output")
    assert_refused(PatchError, "was not applied to", undo_patch, patched, other, tmp_path / "output")


def test_artifacts_in_the_wrong_place_are_refused(chain, tmp_path):
    checkpoint, patch, patched = chain
    for change, first in ((apply_patch, checkpoint), (undo_patch, patched)):
        assert_refused(storage.StorageError, "is of kind", change, patch, first, tmp_path / "output")
        assert_refused(
            storage.StorageError, "has no manifest.json", change, str(tmp_path / "no"), patch, tmp_path / "output"
        )


def flip_a_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", ["checkpoint", "patch"])
def test_damage_is_found_before_anything_is_written(chain, tmp_path, damaged):
    checkpoint, patch, patched = chain
    for change, base in ((apply_patch, checkpoint), (undo_patch, patched)):
        file = Path(patch, PATCH_FILE) if damaged == "patch" else Path(base, "model.safetensors")
        flip_a_byte(file, -1)
        assert_refused(DamagedArtifact, "changed: ", change, base, patch, tmp_path / "output")
        flip_a_byte(file, -1)


def place_of(file: Path, name: str, row: int) -> int:
    """First byte of a row, by the format's own definition: 8 bytes of length, a JSON header, the
    tensors."""
    content = file.read_bytes()
    header_bytes = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8 : 8 + header_bytes])[name]
    first, last = entry["data_offsets"]
    return 8 + header_bytes + first + row * ((last - first) // entry["shape"][0])


@pytest.mark.parametrize("touched", ["a row of the patch", "another row", "another file"])
def test_undo_refuses_what_was_changed_by_other_means(chain, tmp_path, touched):
    """A checkpoint that claims the patch and verifies, but went on learning."""
    _, patch, patched = chain
    manifest = storage.read_manifest(patched)
    name, change = next(read_patch(Path(patch, PATCH_FILE)))
    with storage.write_artifact(
        str(tmp_path / "later"), kind=CHECKPOINT_KIND, config=manifest.config, inputs=manifest.inputs
    ) as draft:
        shutil.copytree(patched, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(storage.MANIFEST))
        if touched == "another file":
            (draft.path / "generation_config.json").write_text("{}")
        else:
            rows = change.rows.tolist()
            row = rows[0] if touched == "a row of the patch" else next(row for row in range(81) if row not in rows)
            weights = draft.path / "model.safetensors"
            flip_a_byte(weights, place_of(weights, name, row))
    message = {"a row of the patch": rf"row {change.rows[0]} of '{name}'"}.get(
        touched, "does not give the base's files back"
    )
    assert_refused(PatchError, message, undo_patch, str(tmp_path / "later"), patch, tmp_path / "output")


def test_a_patch_of_a_weight_that_the_checkpoint_lacks_is_refused(tmp_path):
    model = base_model("full")
    checkpoint = write_checkpoint(tmp_path / "base", model)
    patch = write_patch(tmp_path / "patch", checkpoint, {"ghost": torch.zeros(2, 2)}, {"ghost": torch.ones(2, 2)})
    assert_refused(PatchError, "no weight 'ghost'", apply_patch, checkpoint, patch, tmp_path / "output")


def test_an_output_that_holds_something_else_is_not_overwritten(chain, tmp_path):
    checkpoint, patch, _ = chain
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(storage.StorageError, match="is not empty"):
        apply_patch(checkpoint, patch, str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    assert files_of(str(tmp_path / "mine")) == ["thesis.tex"]


def test_tied_weights_are_stored_once_and_patched_once(tmp_path):
    shape = ModelConfig(
        num_layers=2,
        hidden_size=12,
        num_attention_heads=2,
        intermediate_size=20,
        tie_embeddings=True,
        memory=MemoryConfig(layers=()),
    )
    model = build_model(model_config(shape, dense=True, vocab_size=VOCAB_SIZE, eos_id=EOS, pad_id=PAD), seed=0)
    checkpoint = write_checkpoint(tmp_path / "base", model)
    before = {name: weight.clone() for name, weight in stored_weights(model).items()}
    learn("full", model)
    patch = write_patch(tmp_path / "patch", checkpoint, before, stored_weights(model))
    assert before.keys() == stored(checkpoint).keys() < state(model).keys()
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    learned = state(model)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "patched")
    assert all(same_bits(value, learned[name]) for name, value in loaded.state_dict().items())


# --- patches from elsewhere
# -------------------------------------------------------------------------------------------

WEIGHT = "model.layers.0.self_attn.q_proj.weight"


def crafted(folder: Path, checkpoint: str, tensors: dict[str, Tensor] | bytes) -> str:
    """A patch artifact whose digests are right and whose content is what somebody liked it to
    be."""
    inputs = {"checkpoint": storage.read_manifest(checkpoint).digest}
    with storage.write_artifact(str(folder / "crafted"), kind=PATCH_KIND, config={}, inputs=inputs) as draft:
        if isinstance(tensors, bytes):
            (draft.path / PATCH_FILE).write_bytes(tensors)
        else:
            save_file(tensors, draft.path / PATCH_FILE)
    return str(folder / "crafted")


def of_rows(
    numbers: list[int], value: float = 0.5, dtype: torch.dtype = torch.float32, width: int = 12, **changes: Tensor
):
    """A patch of the weight; the rows as the checkpoint has them before, and filled with the
    value after."""
    old = base_model("full").state_dict()[WEIGHT]
    before = old[[row % len(old) for row in numbers]].to(dtype)[:, :width].contiguous()
    parts = {"rows": torch.tensor(numbers), "before": before, "after": torch.full_like(before, value)}
    return {f"{WEIGHT}:{part}": tensor for part, tensor in (parts | changes).items()}


UNFIT = {
    "one past the last row": (lambda: of_rows([3, 12]), "row 12 is not one of the checkpoint's rows 0 to 11"),
    "far past the end": (lambda: of_rows([2**62]), f"row {2**62} is not one"),
    "a negative row": (lambda: of_rows([-1]), "row -1 is not one"),
    "a row in the header": (lambda: of_rows([-40, 3]), "row -40 is not one"),
    "a row twice": (lambda: of_rows([3, 3]), "not strictly ascending"),
    "descending rows": (lambda: of_rows([4, 3]), "not strictly ascending"),
    "rows of int32": (lambda: of_rows([3], rows=torch.tensor([3], dtype=torch.int32)), "must be a list of int64"),
    "rows of floats": (lambda: of_rows([3], rows=torch.tensor([3.0])), "must be a list of int64"),
    "rows in a table": (lambda: of_rows([3], rows=torch.tensor([[3]])), "must be a list of int64"),
    "more rows than values": (lambda: of_rows([3], rows=torch.tensor([3, 4])), "belongs to another checkpoint"),
    "a narrower row": (lambda: of_rows([3], width=6), r"F32 \[1, 6\], and the checkpoint's rows are F32 \[1, 12\]"),
    "half the bytes": (lambda: of_rows([3], dtype=torch.bfloat16), r"before is BF16 .* F32"),
    "as many bytes of another type": (
        lambda: of_rows([3], before=torch.zeros(1, 12, dtype=torch.int32), after=torch.zeros(1, 12, dtype=torch.int32)),
        "before is I32",
    ),
    "as many bytes in another shape": (
        lambda: of_rows([3], before=torch.zeros(1, 3, 4), after=torch.zeros(1, 3, 4)),
        r"F32 \[1, 3, 4\]",
    ),
    "another type after": (lambda: of_rows([3], after=torch.zeros(1, 12, dtype=torch.float16)), "after is F16"),
    "NaN": (lambda: of_rows([3], value=NAN), "after holds NaN or Inf"),
    "Inf": (lambda: of_rows([3], value=float("-inf")), "after holds NaN or Inf"),
    "no rows": (lambda: {f"{WEIGHT}:{part}": torch.zeros(1, 12) for part in ("before", "after")}, "rows' is missing"),
    "a part of nothing": (lambda: of_rows([3]) | {"else": torch.zeros(1)}, "missing or belongs to no weight"),
    "no safetensors": (lambda: b"PK not safetensors", "cannot be read"),
    "a huge header": (lambda: (2**60).to_bytes(8, "little") + b"{}", "cannot be read"),
    "a deep header": (lambda: (200_000).to_bytes(8, "little") + b"[" * 200_000, "cannot be read"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_patch_that_does_not_fit_is_refused_before_a_byte_is_written(tmp_path, monkeypatch, kind):
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    make, message = UNFIT[kind]
    patch = crafted(tmp_path, checkpoint, make())
    monkeypatch.setattr(
        "memlm.training.patch.write_rows", lambda *_, **__: pytest.fail("a byte would be written"), raising=False
    )
    with pytest.raises(PatchError, match=message) as caught:
        apply_patch(checkpoint, patch, str(tmp_path / "output"))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "crafted"]


def test_a_patch_that_fits_by_hand_is_applied(tmp_path):
    """What is refused above is refused for its fault alone."""
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    apply_patch(checkpoint, crafted(tmp_path, checkpoint, of_rows([3, 11])), str(tmp_path / "patched"))
    assert (stored(str(tmp_path / "patched"))[WEIGHT] == 0.5).all(dim=1).nonzero().flatten().tolist() == [3, 11]


def test_undo_checks_the_patch_too(tmp_path):
    """A checkpoint that claims a patch, and the patch, both made by hand."""
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    patch, base = crafted(tmp_path, checkpoint, of_rows([12])), storage.read_manifest(checkpoint)
    inputs = {"base": base.digest, "patch": storage.read_manifest(patch).digest}
    with storage.write_artifact(str(tmp_path / "claims"), kind=CHECKPOINT_KIND, config=CONFIG, inputs=inputs) as draft:
        shutil.copytree(checkpoint, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(storage.MANIFEST))
        (draft.path / "base_manifest.json").write_bytes(base.to_json())
    assert_refused(PatchError, "row 12 is not one", undo_patch, str(tmp_path / "claims"), patch, tmp_path / "output")


@pytest.mark.parametrize("body", [b"", b"{}", b"[" * 100_000, b'{"config": 1, "digest": "x"}'])
def test_a_base_manifest_that_is_none_is_one_line(tmp_path, body):
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    inputs = {"base": "x", "patch": storage.read_manifest(patch).digest}
    with storage.write_artifact(str(tmp_path / "claims"), kind=CHECKPOINT_KIND, config=CONFIG, inputs=inputs) as draft:
        shutil.copytree(checkpoint, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(storage.MANIFEST))
        (draft.path / "base_manifest.json").write_bytes(body)
    assert_refused(DamagedArtifact, "base_manifest", undo_patch, str(tmp_path / "claims"), patch, tmp_path / "output")


def test_a_weight_in_two_files_of_a_checkpoint_is_refused(tmp_path):
    model = base_model("full")
    with storage.write_artifact(str(tmp_path / "base"), kind=CHECKPOINT_KIND, config=CONFIG, inputs=INPUTS) as draft:
        model.save_pretrained(draft.path)
        shutil.copyfile(draft.path / "model.safetensors", draft.path / "old.safetensors")
    checkpoint = str(tmp_path / "base")
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    assert_refused(PatchError, "lies in model.safetensors and in old", apply_patch, checkpoint, patch, tmp_path / "out")


def test_a_finetune_that_diverged_leaves_no_patch(tmp_path):
    before, after = {"w": torch.zeros(2, 2)}, {"w": torch.tensor([[0.0, 1.0], [NAN, 0.0]])}
    with pytest.raises(PatchError, match="the learned 'w' holds NaN or Inf; learn again at a lower learning rate"):
        save_patch(changed_rows(before, after), tmp_path / "p")
    assert not (tmp_path / "p").exists()


# --- folders
# ----------------------------------------------------------------------------------------------------------


def test_all_files_of_a_checkpoint_travel_and_no_others(tmp_path):
    """Also one in a folder that is called like the manifest; but nothing that somebody put next
    to them. (The README is the model card.)"""
    model = base_model("full")
    with storage.write_artifact(str(tmp_path / "base"), kind=CHECKPOINT_KIND, config=CONFIG, inputs=INPUTS) as draft:
        model.save_pretrained(draft.path)
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / storage.MANIFEST).write_text("mine")
    checkpoint = str(tmp_path / "base")
    Path(checkpoint, "notes.txt").write_text("about a model")
    Path(checkpoint, "extra.safetensors").write_text("no weights")
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    undo_patch(str(tmp_path / "patched"), patch, str(tmp_path / "undone"))
    named = sorted(storage.read_manifest(checkpoint).files)
    assert "sub/manifest.json" in named and "notes.txt" not in named
    assert files_of(str(tmp_path / "undone")) == sorted([*named, storage.MANIFEST])
    assert files_of(str(tmp_path / "patched")) == sorted([*named, storage.MANIFEST, "base_manifest.json"])


def test_patches_on_patches_are_undone_one_after_the_other(tmp_path):
    places = [write_checkpoint(tmp_path / "0", base_model("full"))]
    patches = []
    for number in range(1, 4):
        (tmp_path / f"p{number}").mkdir()
        old = stored(places[-1])[WEIGHT][[number]]
        rows = {"rows": torch.tensor([number]), "before": old, "after": old + 1}
        patch = crafted(tmp_path / f"p{number}", places[-1], {f"{WEIGHT}:{part}": rows[part] for part in rows})
        patches.append(patch)
        places.append(str(tmp_path / str(number)))
        apply_patch(places[-2], patch, places[-1])
    current = places[-1]
    for number in (3, 2, 1):
        undo_patch(current, patches[number - 1], str(tmp_path / f"back{number}"))
        current = str(tmp_path / f"back{number}")
        assert storage.read_manifest(current).digest == storage.read_manifest(places[number - 1]).digest


@pytest.mark.parametrize("inside", ["base", "crafted"])
def test_an_output_inside_what_is_read_is_refused(tmp_path, inside):
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    before = files_of(str(tmp_path))
    for place in (f"{inside}/output", f"{inside}/sub/../deep/output", inside):
        with pytest.raises((storage.StorageError, PatchError)):
            apply_patch(checkpoint, patch, str(tmp_path / place))
    assert files_of(str(tmp_path)) == before
    storage.open_artifact(checkpoint)


def test_undo_into_a_checkpoint_that_is_there_deletes_nothing(tmp_path):
    """Also where the patched checkpoint was changed, so that the base cannot come back."""
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    manifest = storage.read_manifest(str(tmp_path / "patched"))
    with storage.write_artifact(
        str(tmp_path / "later"), kind=CHECKPOINT_KIND, config=manifest.config, inputs=manifest.inputs
    ) as draft:
        shutil.copytree(
            tmp_path / "patched", draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json")
        )
        (draft.path / "generation_config.json").write_text("{}")
    before = files_of(checkpoint)
    with pytest.raises(PatchError, match="does not give the base's files back"):
        undo_patch(str(tmp_path / "later"), patch, checkpoint)
    assert files_of(checkpoint) == before
    undo_patch(str(tmp_path / "patched"), patch, checkpoint)
    assert files_of(checkpoint) == before


@pytest.mark.parametrize("format", [1, 2])
def test_undo_gives_the_manifest_back_too_in_the_format_it_had(tmp_path, format):
    """With the seconds that the base took and the lease's epoch; of a base made before details
    had a digest as well."""
    with storage.write_artifact(str(tmp_path / "base"), kind=CHECKPOINT_KIND, config=CONFIG, inputs=INPUTS) as draft:
        base_model("full").save_pretrained(draft.path)
        draft.details.update(seconds=12.3456789, epoch=3)
        draft.format = format
    checkpoint = str(tmp_path / "base")
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    undo_patch(str(tmp_path / "patched"), patch, str(tmp_path / "undone"))
    there, back = (Path(uri, storage.MANIFEST).read_bytes() for uri in (checkpoint, str(tmp_path / "undone")))
    assert there == back and (b"details_digest" in there) == (format == 2)
