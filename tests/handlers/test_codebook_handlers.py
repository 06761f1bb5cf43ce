from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from vqseg_bundle.handlers import CodebookMaintenance, CodebookUsage, codebook_perplexity
from vqseg_bundle.layers import VectorQuantizer


class Step(NamedTuple):
    """What the maintenance reads of the student's output."""

    features: Tensor
    indices: Tensor
    quantized_skips: tuple[Step, ...] = ()


def _quantizer(codebook_type: str = "ema", num_embeddings: int = 4) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(2, num_embeddings, 2, codebook_type=codebook_type)


def _features(quantizer: VectorQuantizer, codes: list[int]) -> Tensor:
    """An image ``(1, 2, 1, n)`` whose tokens are exactly the given codewords."""
    return quantizer.project_codebook().detach()[codes].t().view(1, 2, 1, -1)


# usage


@pytest.mark.parametrize(
    ("counts", "perplexity"),
    [
        ([3, 3, 3, 3], 4.0),
        ([7, 0, 0, 0], 1.0),
        ([1, 1, 0, 0], 2.0),
        ([2, 1, 1, 0], 2**1.5),  # entropy 1/2 log 2 + 1/2 log 4
        ([0, 0, 0, 0], 0.0),
    ],
)
def test_perplexity_by_hand(counts, perplexity):
    assert codebook_perplexity(torch.tensor(counts)) == pytest.approx(perplexity, rel=1e-12)


def _usage_engine(quantizer: VectorQuantizer, usage: CodebookUsage) -> Engine:
    engine = Engine(lambda engine, codes: quantizer(_features(quantizer, codes)))
    usage.attach(engine)
    return engine


def test_usage_and_perplexity_of_an_epoch():
    quantizer = _quantizer()
    usage = CodebookUsage(quantizer)
    engine = _usage_engine(quantizer, usage)
    engine.run([[0, 0, 1], [2, 0, 2, 0, 1, 0]])
    assert usage.counts.tolist() == [5, 2, 2, 0]
    assert engine.state.metrics["codebook_usage"] == 0.75
    entropy = -(5 / 9) * math.log(5 / 9) - 2 * (2 / 9) * math.log(2 / 9)
    assert engine.state.metrics["codebook_perplexity"] == pytest.approx(math.exp(entropy), rel=1e-12)


def test_in_training_the_passes_that_label_do_not_count():
    quantizer = _quantizer()
    usage = CodebookUsage(quantizer, training=True)

    def step(engine, codes):
        with torch.inference_mode():
            quantizer(_features(quantizer, [3, 3, 3]))
        quantizer(_features(quantizer, codes))

    engine = Engine(step)
    usage.attach(engine)
    engine.run([[0, 0, 1]])
    assert usage.counts.tolist() == [2, 1, 0, 0]


def test_every_epoch_counts_anew():
    quantizer = _quantizer()
    usage, reports = CodebookUsage(quantizer), []
    engine = _usage_engine(quantizer, usage)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: reports.append(engine.state.metrics["codebook_usage"])
    )
    engine.run([[0, 1], [2, 3], [1], [1]], max_epochs=2, epoch_length=2)
    assert reports == [1.0, 0.25]
    assert usage.counts.tolist() == [0, 2, 0, 0]


def test_the_layer_is_listened_to_during_an_epoch_only_and_left_untouched():
    quantizer = _quantizer().eval()
    state = {key: value.clone() for key, value in quantizer.state_dict().items()}
    attributes = set(vars(quantizer))
    usage = CodebookUsage(quantizer)
    engine = _usage_engine(quantizer, usage)
    during: list[int] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: during.append(len(quantizer._forward_hooks)))
    engine.run([[0], [1]])
    assert during == [1, 1]
    assert len(quantizer._forward_hooks) == 0
    quantizer(_features(quantizer, [3]))
    assert usage.counts.tolist() == [1, 1, 0, 0]
    assert set(vars(quantizer)) == attributes
    assert all(torch.equal(value, state[key]) for key, value in quantizer.state_dict().items())


def test_the_hook_is_removed_when_an_epoch_breaks_off():
    quantizer = _quantizer()

    def fail(engine, codes):
        raise RuntimeError("the batch is broken")

    engine = Engine(fail)
    engine.logger.disabled = True
    CodebookUsage(quantizer).attach(engine)
    with pytest.raises(RuntimeError, match="the batch is broken"):
        engine.run([[0]])
    assert len(quantizer._forward_hooks) == 0


def test_a_network_without_quantiser_reports_nothing():
    engine = Engine(lambda engine, batch: None)
    CodebookUsage(None).attach(engine)
    engine.run([0])
    assert "codebook_usage" not in engine.state.metrics


# maintenance


def _train(
    quantizer: VectorQuantizer, handler: CodebookMaintenance, codes: list[int], iterations: int, spread: int = 0
) -> list[list[int]]:
    """Feed the same tokens again and again; says which codewords moved in each iteration.

    ``spread`` more tokens lie far away, for the codes to be revived on, and are said to belong to the first code.
    """
    own = _features(quantizer, codes)
    far = torch.arange(2.0 * spread).view(1, 2, 1, spread) + 100.0
    indices = torch.tensor([[codes + codes[:1] * spread]])
    moves: list[list[int]] = []

    def step(engine: Engine, batch: int) -> dict[str, Step]:
        return {"student": Step(torch.cat((own, far), dim=3), indices)}

    engine = Engine(step)
    codewords = [quantizer.project_codebook().detach().clone()]

    def note_moves(engine: Engine) -> None:
        codewords.append(quantizer.project_codebook().detach().clone())
        moved = (codewords[-1] - codewords[-2]).abs().amax(dim=1) > 1e-4
        moves.append(moved.nonzero().flatten().tolist())

    handler.attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED, note_moves)
    engine.run(range(iterations))
    return moves


@pytest.mark.parametrize("codebook_type", ["ema", "mapped"])
def test_dead_codes_are_revived_after_patience_and_live_ones_stay(codebook_type):
    quantizer = _quantizer(codebook_type)
    handler = CodebookMaintenance([quantizer], total_iterations=100, patience=3, interval=1, max_share=1.0)
    moves = _train(quantizer, handler, codes=[1, 3, 1, 3], iterations=4)
    assert moves[:2] == [[], []]
    assert moves[2] == [0, 2]
    assert moves[3] == []  # their patience begins anew
    revived = quantizer.project_codebook()[[0, 2]].detach()
    live = quantizer.project_codebook()[[1, 3]].detach()
    # each sits on a token of the batch
    assert torch.cdist(revived, live).min(dim=1).values.max() < 1e-4


def test_revived_codes_take_tokens_from_then_on():
    quantizer = _quantizer("mapped")
    handler = CodebookMaintenance([quantizer], total_iterations=100, patience=1, interval=1, max_share=1.0)
    _train(quantizer, handler, codes=[1], iterations=1, spread=30)
    far = torch.arange(60.0).view(1, 2, 1, 30) + 100.0
    used = quantizer(far).indices.unique().tolist()
    assert set(used) <= {0, 2, 3}
    assert len(used) >= 2


@pytest.mark.parametrize(("max_share", "revived"), [(0.1, 2), (0.25, 5), (0.001, 1), (1.0, 19)])
def test_at_most_max_share_is_revived_at_once(max_share, revived):
    quantizer = _quantizer(num_embeddings=20)
    handler = CodebookMaintenance([quantizer], total_iterations=100, patience=1, interval=1, max_share=max_share)
    moves = _train(quantizer, handler, codes=[0], iterations=1, spread=40)
    assert len([code for code in moves[0] if code != 0]) == revived


def test_not_more_codes_are_revived_than_there_are_tokens():
    quantizer = _quantizer(num_embeddings=20)
    handler = CodebookMaintenance([quantizer], total_iterations=100, patience=1, interval=1, max_share=1.0)
    moves = _train(quantizer, handler, codes=[0, 0, 0], iterations=1)
    assert len(moves[0]) == 3


def test_revivals_come_at_intervals_and_stop_for_good():
    quantizer = _quantizer(num_embeddings=40)
    handler = CodebookMaintenance(
        [quantizer], total_iterations=10, patience=1, interval=2, max_share=0.05, stop_share=0.6
    )
    moves = _train(quantizer, handler, codes=[0], iterations=10, spread=50)
    assert [len([code for code in moved if code != 0]) for moved in moves] == [0, 2, 0, 2, 0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("changes", [{"patience": 0}, {"stop_share": 0.0}])
def test_reviving_can_be_switched_off(changes):
    quantizer = _quantizer("mapped")
    handler = CodebookMaintenance([quantizer], total_iterations=10, interval=1, **({"patience": 1} | changes))
    assert _train(quantizer, handler, codes=[0], iterations=5) == [[]] * 5


def test_the_draw_is_that_of_the_seed():
    def codewords(seed: int) -> Tensor:
        quantizer = _quantizer(num_embeddings=20)
        handler = CodebookMaintenance([quantizer], 100, patience=1, interval=1, max_share=0.2, seed=seed)
        _train(quantizer, handler, codes=[0], iterations=2, spread=40)
        return quantizer.project_codebook()

    assert torch.equal(codewords(0), codewords(0))
    assert not torch.equal(codewords(0), codewords(1))


def test_ema_codewords_follow_the_tokens_each_step():
    """Counts and sums start at 1 token a code: c = (0.99 c0 + 0.01 * 3 z) / (0.99 + 0.03) for three tokens z."""
    quantizer = _quantizer()
    start = quantizer.project_codebook().clone()
    engine = Engine(
        lambda engine, batch: {"student": Step(torch.ones(1, 2, 1, 3), torch.zeros(1, 1, 3, dtype=torch.int64))}
    )
    CodebookMaintenance([quantizer], total_iterations=10).attach(engine)
    engine.run([0])
    torch.testing.assert_close(quantizer.project_codebook()[0], (0.99 * start[0] + 0.03) / 1.02)
    assert torch.equal(quantizer.project_codebook()[1:], start[1:])


def test_each_quantiser_has_dead_codes_of_its_own_and_follows_its_own_tokens():
    bottleneck, skip = _quantizer(), _quantizer()
    ones, twos = torch.ones(1, 2, 1, 3), torch.full((1, 2, 1, 5), 2.0)
    quantised_skip = Step(twos, torch.full((1, 1, 5), 3))
    step = Step(ones, torch.zeros(1, 1, 3, dtype=torch.int64), (quantised_skip,))
    handler = CodebookMaintenance([bottleneck, skip], total_iterations=10, patience=2, interval=2, max_share=1.0)
    engine = Engine(lambda engine, batch: {"student": step})
    handler.attach(engine)
    engine.run([0])
    assert handler.idle.tolist() == [[0, 1, 1, 1], [1, 1, 1, 0]]
    engine.run([0, 0])
    assert (bottleneck.project_codebook()[1:] == 1.0).all()
    assert (skip.project_codebook()[:3] == 2.0).all()
    assert handler.idle.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_training_in_rounds_counts_idle_codes_across_them():
    """As a federated client's: each round starts the engine again, after the last one's steps."""
    quantizer = _quantizer()
    handler = CodebookMaintenance([quantizer], total_iterations=100, patience=50)
    step = Step(torch.ones(1, 2, 1, 3), torch.zeros(1, 1, 3, dtype=torch.int64))
    engine = Engine(lambda engine, batch: {"student": step})
    handler.attach(engine)
    engine.run([0, 0], max_epochs=1)
    engine.run([0, 0], max_epochs=2)
    assert handler.idle.tolist() == [[0, 4, 4, 4]]
    another = Engine(lambda engine, batch: {"student": step})
    handler.attach(another)
    another.run([0])
    assert handler.idle.tolist() == [[0, 1, 1, 1]]


def test_a_network_without_quantiser_needs_no_maintenance():
    engine = Engine(lambda engine, batch: {"student": None})
    CodebookMaintenance([], total_iterations=10).attach(engine)
    engine.run([0])
    assert engine.state.iteration == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_share": 0.0}, r"max_share must lie in \(0, 1\], got 0.0"),
        ({"max_share": 1.5}, r"max_share must lie in \(0, 1\], got 1.5"),
        ({"stop_share": 1.1}, r"stop_share must lie in \[0, 1\], got 1.1"),
        ({"patience": -1}, r"patience must be at least 0 and interval at least 1, got -1 and 10"),
        ({"interval": 0}, r"patience must be at least 0 and interval at least 1, got 100 and 0"),
    ],
)
def test_arguments_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        CodebookMaintenance([nn.Identity()], 10, **changes)
