"""The loop: one learning rate an epoch, metrics handed over in order, a bad loss stops it while the weights are good."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from core.errors import UserError
from core.training import state as states
from core.training.loop import Plan, Timed, fit
from core.training.schedule import cosine

CPU = torch.device("cpu")


class Toy:
    """A regression with dropout whose batches are a pure function of the epoch; `spoil` = (epoch, step, value) of a bad loss."""

    steps = 3

    def __init__(self, spoil: tuple[int, int, float] | None = None):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1.0)
        self.spoil, self.seen, self.evaluated = spoil, [], []

    def batches(self, epoch):
        generator = torch.Generator().manual_seed(epoch)
        for step in range(self.steps):
            yield step, torch.randn(16, 4, generator=generator)

    def losses(self, batch, epoch):
        step, x = batch
        self.seen.append((epoch, step, self.optimizer.param_groups[0]["lr"]))
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        part = loss.detach() / 2
        if self.spoil and self.spoil[:2] == (epoch, step):
            part = part * self.spoil[2]
        return {"L_total": loss, "L_part": part}

    def evaluate(self, epoch):
        self.evaluated.append(epoch)
        return {"accuracy": float(epoch)}


def plan(start: int, stop: int, **more) -> Plan:
    return Plan(start, stop, lambda epoch: cosine(epoch, 6, 0.05), CPU, **more)


def test_every_epoch_has_its_learning_rate_and_is_handed_over_once_in_order():
    toy, handed = Toy(), []
    fit(toy, toy.optimizer, plan(2, 5), lambda epoch, metrics: handed.append((epoch, metrics)))
    assert toy.seen == [(epoch, step, cosine(epoch, 6, 0.05)) for epoch in (2, 3, 4) for step in range(3)]
    assert [epoch for epoch, _ in handed] == toy.evaluated == [3, 4, 5]
    for epoch, metrics in handed:
        assert metrics["lr"] == cosine(epoch - 1, 6, 0.05)
        assert metrics["accuracy"] == epoch
        assert metrics["L_part"] == pytest.approx(metrics["L_total"] / 2)
        assert {"time/train_seconds", "time/evaluate_seconds", "time/data_wait_seconds"} <= metrics.keys()


def test_no_epochs_left_is_no_work():
    toy = Toy()
    fit(toy, toy.optimizer, plan(4, 4), lambda *_: pytest.fail("nothing to hand over"))
    assert toy.seen == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step(value):
    toy, good, digests = Toy(spoil=(1, 2, value)), Toy(), []
    step = toy.optimizer.step
    toy.optimizer.step = lambda: (step(), digests.append(states.weights_digest(toy.model.state_dict())))
    with pytest.raises(UserError, match=r"loss L_part is not finite in epoch 2; lower lr") as caught:
        fit(toy, toy.optimizer, plan(0, 3), lambda *_: None)
    assert "\n" not in str(caught.value)
    assert len(digests) == 5 and states.weights_digest(toy.model.state_dict()) == digests[-1]
    fit(good, good.optimizer, plan(0, 1), lambda *_: None)
    assert states.weights_digest(good.model.state_dict()) == digests[2]


@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_training_is_bit_identical(tmp_path, cut):
    straight = Toy()
    fit(straight, straight.optimizer, plan(0, 5), lambda *_: None)

    first, resumed = Toy(), Toy()
    fit(first, first.optimizer, plan(0, cut), lambda *_: None)
    path = states.save_checkpoint(tmp_path, states.TrainState(cut, first.model.state_dict(), first.optimizer.state_dict()))
    torch.manual_seed(99)
    found = states.load_checkpoint(path)
    resumed.model.load_state_dict(found.model)
    resumed.optimizer.load_state_dict(found.optimizer)
    fit(resumed, resumed.optimizer, plan(found.epoch, 5), lambda *_: None)
    assert states.weights_digest(resumed.model.state_dict()) == states.weights_digest(straight.model.state_dict())


def test_the_seed_changes_what_is_drawn():
    one, other = Toy(), Toy()
    fit(one, one.optimizer, plan(0, 1, seed=1), lambda *_: None)
    fit(other, other.optimizer, plan(0, 1, seed=2), lambda *_: None)
    assert states.weights_digest(one.model.state_dict()) != states.weights_digest(other.model.state_dict())


def test_an_error_while_handing_over_stops_the_training():
    toy = Toy()

    def refuse(epoch, metrics):
        raise UserError("disk full")

    with pytest.raises(UserError, match="disk full"):
        fit(toy, toy.optimizer, plan(0, 3), refuse)
    assert toy.evaluated == [1]


def test_waiting_is_counted_and_items_pass_through():
    timed = Timed(iter([1, 2, 3]))
    assert list(timed) == [1, 2, 3]
    assert timed.waited >= 0
