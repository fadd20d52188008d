import pytest
import torch

from memlm.data.questions.facts import FactBatch
from memlm.methods.config import OptimizerConfig
from memlm.methods.full import FullConfig, FullFinetuning
from memlm.methods.parts.sparse_memory_finetuning import SparseMemoryFinetuning
from memlm.training.step import divergence, finetune_step, next_token_loss, num_predicted
from tests.support.tiny import (
    MEMORIES,
    PAD,
    VOCAB_SIZE,
    mean_loss,
    random_background,
    random_batch,
    rows_of,
    sparse_config,
    state,
    tiny_model,
)


def uniform_logits(batch):
    return torch.zeros(*batch.tokens.shape, VOCAB_SIZE)


def loss_and_gradient(loss, logits, batch):
    logits = logits.clone().requires_grad_(True)
    value = loss(logits, batch.tokens, batch.is_token)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def test_the_loss_of_a_model_that_knows_nothing():
    batch = random_batch(0, lengths=(5, 2))
    expected = (4 + 1) * torch.tensor(VOCAB_SIZE).log()
    torch.testing.assert_close(next_token_loss(uniform_logits(batch), batch.tokens, batch.is_token), expected)
    assert num_predicted(batch.is_token) == 5


def test_the_loss_is_the_sum_over_single_tokens():
    model, batch = tiny_model(), random_batch(0)
    logits = model(input_ids=batch.tokens).logits
    total = next_token_loss(logits, batch.tokens, batch.is_token)
    torch.testing.assert_close(total / num_predicted(batch.is_token), mean_loss(model, [batch]))


def check_pads_are_not_trained_on(loss):
    batch = random_batch(0)
    logits = torch.randn(*batch.tokens.shape, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    others = batch._replace(tokens=batch.tokens.masked_fill(~batch.is_token, 3))
    value, gradient = loss_and_gradient(loss, logits, batch)
    other_value, other_gradient = loss_and_gradient(loss, logits, others)
    assert torch.equal(value, other_value) and torch.equal(gradient, other_gradient)
    assert not gradient[~batch.is_token].any()  # not predicted from, either
    last_token = batch.is_token.sum(dim=1) - 1
    assert not gradient[torch.arange(4), last_token].any()  # the eos predicts nothing


def test_only_the_targets_are_learned():
    """The loss is the mean over the targets alone, and nothing else moves."""
    batch = random_batch(0)
    learned = torch.zeros_like(batch.is_token)
    learned[0, 3] = learned[2, 1] = True
    losses = []
    for target in (learned, None):
        model = tiny_model(dense=True)
        logits = model(input_ids=batch.tokens).logits.log_softmax(-1)
        expected = -(logits[0, 2, batch.tokens[0, 3]] + logits[2, 0, batch.tokens[2, 1]]).detach() / 2
        method = FullFinetuning(model, FullConfig(optimizer=OptimizerConfig(kind="sgd", learning_rate=1e-9)))
        losses.append(finetune_step(method, [batch._replace(is_learned=target)]).loss)
    assert losses[0] == pytest.approx(float(expected), rel=1e-5) and losses[1] != pytest.approx(losses[0])


def test_pads_are_not_trained_on():
    check_pads_are_not_trained_on(next_token_loss)


def test_mutant_that_trains_on_pads_is_caught():
    with pytest.raises(AssertionError):
        check_pads_are_not_trained_on(
            lambda logits, tokens, _: next_token_loss(logits, tokens, torch.ones_like(tokens).bool())
        )


def test_the_end_of_a_statement_is_trained_on():
    batch = random_batch(0, lengths=(4,))
    _, gradient = loss_and_gradient(next_token_loss, uniform_logits(batch), batch)
    assert gradient[0].argmin(dim=-1)[:3].tolist() == batch.tokens[0, 1:].tolist()


@pytest.mark.parametrize("chunks", [(slice(0, 4),), (slice(0, 2), slice(2, 4)), (slice(0, 1), slice(1, 4))])
def test_the_loss_of_a_step_is_the_mean_over_all_micro_batches_tokens(chunks):
    """Not the mean of the micro-batches' means: their numbers of tokens differ."""
    model, batch = tiny_model(dense=True), random_batch(0)
    expected = mean_loss(model, [batch]).item()
    method = FullFinetuning(model, FullConfig(optimizer=OptimizerConfig(kind="sgd", learning_rate=0.1)))
    assert finetune_step(method, rows_of(batch, *chunks)).loss == pytest.approx(expected, rel=1e-5)


def test_micro_batches_may_have_different_lengths():
    model, batches = tiny_model(dense=True), [random_batch(0), random_batch(1, lengths=(9, 2))]
    expected = mean_loss(model, batches).item()
    method = FullFinetuning(model, FullConfig(optimizer=OptimizerConfig(kind="sgd", learning_rate=0.1)))
    result = finetune_step(method, [FactBatch(*batch) for batch in batches])
    assert result.loss == pytest.approx(expected, rel=1e-5)


def full(model):
    return FullFinetuning(
        model, FullConfig(optimizer=OptimizerConfig(kind="adamw", learning_rate=0.1, weight_decay=0.1))
    )


def sparse(model):
    return SparseMemoryFinetuning(
        model, sparse_config(kind="adamw", weight_decay=0.1), random_background(model), seed=0
    )


METHODS = {"full": full, **dict.fromkeys(MEMORIES, sparse)}
NOTHING_TO_PREDICT = {
    "pads alone": torch.full((2, 4), PAD),
    "one token a row": torch.tensor([[3, PAD], [4, PAD]]),
    "rows of one": torch.tensor([[3], [4]]),
    "no rows": torch.empty((0, 4), dtype=torch.int64),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("tokens", NOTHING_TO_PREDICT.values(), ids=NOTHING_TO_PREDICT)
def test_a_batch_without_a_token_to_predict_is_refused_before_anything_moves(name, tokens):
    model = tiny_model(MEMORIES.get(name, MEMORIES["one layer"]), dense=name == "full")
    method, before = METHODS[name](model), state(model)
    batch = FactBatch("fact 7", tokens, tokens != PAD)
    with pytest.raises(ValueError, match="fact 7.*no token to predict"):
        finetune_step(method, [batch, batch])
    after = state(model)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert finetune_step(method, [random_batch(0)]).loss > 0  # and the method continues


@pytest.mark.parametrize("name", METHODS)
def test_a_micro_batch_of_pads_changes_nothing_next_to_one_with_tokens(name):
    results = []
    for batches in (
        [random_batch(0)],
        [random_batch(0), FactBatch("pads", torch.full((2, 4), PAD), torch.zeros(2, 4) > 0)],
    ):
        model = tiny_model(MEMORIES.get(name, MEMORIES["one layer"]), dense=name == "full")
        results.append((finetune_step(METHODS[name](model), batches), state(model)))
    (ours, our_state), (theirs, their_state) = results
    assert ours.report == theirs.report and ours.loss == pytest.approx(theirs.loss)
    for key in our_state:
        torch.testing.assert_close(our_state[key], their_state[key])


def test_the_divergence_is_that_of_the_targets_alone():
    generator = torch.Generator().manual_seed(0)
    original, logits = torch.randn(2, 2, 5, 7, generator=generator)
    is_target = torch.tensor([[True, True, False, True, True], [True, True, True, False, False]])
    wanted = 0.0
    for row in range(2):
        for place in range(4):
            if is_target[row, place + 1]:
                p, q = ((each[row, place] / 2).softmax(dim=0) for each in (original, logits))
                wanted += 4 * float((p * (p / q).log()).sum())
    assert float(divergence(original, logits, is_target, temperature=2.0)) == pytest.approx(wanted, rel=1e-5)
    assert float(divergence(original, original, is_target)) == 0
