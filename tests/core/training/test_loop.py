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
        self.prepared, self.steps_done = [], 0

    def prepare(self, epoch):
        self.prepared.append(epoch)
        return self.optimizer

    def stepped(self):
        self.steps_done += 1

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

    def tensors(self):
        return self.model.state_dict().items()

    def tally(self):
        return {"train/accuracy": 0.5}

    def evaluate(self, epoch):
        self.evaluated.append(epoch)
        return {"accuracy": float(epoch)}


def plan(start: int, stop: int, **more) -> Plan:
    return Plan(start, stop, lambda epoch: cosine(epoch, 6, 0.05), CPU, **more)


def test_every_epoch_has_its_learning_rate_and_is_handed_over_once_in_order():
    toy, handed = Toy(), []
    fit(toy, plan(2, 5), lambda epoch, metrics: handed.append((epoch, metrics)))
    assert toy.prepared == [2, 3, 4] and toy.steps_done == 9
    assert toy.seen == [(epoch, step, cosine(epoch, 6, 0.05)) for epoch in (2, 3, 4) for step in range(3)]
    assert [epoch for epoch, _ in handed] == toy.evaluated == [3, 4, 5]
    for epoch, metrics in handed:
        assert metrics["lr"] == cosine(epoch - 1, 6, 0.05)
        assert metrics["accuracy"] == epoch
        assert metrics["L_part"] == pytest.approx(metrics["L_total"] / 2)
        assert {"time/train_seconds", "time/evaluate_seconds", "time/data_wait_seconds"} <= metrics.keys()


def test_no_epochs_left_is_no_work():
    toy = Toy()
    fit(toy, plan(4, 4), lambda *_: pytest.fail("nothing to hand over"))
    assert toy.seen == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step(value):
    toy, good, digests = Toy(spoil=(1, 2, value)), Toy(), []
    step = toy.optimizer.step
    toy.optimizer.step = lambda: (step(), digests.append(states.weights_digest(toy.model.state_dict())))
    with pytest.raises(UserError, match=r"loss L_part is not finite in epoch 2; lower lr") as caught:
        fit(toy, plan(0, 3), lambda *_: None)
    assert "\n" not in str(caught.value)
    assert len(digests) == 5 and states.weights_digest(toy.model.state_dict()) == digests[-1]
    fit(good, plan(0, 1), lambda *_: None)
    assert states.weights_digest(good.model.state_dict()) == digests[2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("what", ["0.weight", "2.bias"])
def test_weights_that_diverge_in_the_last_step_end_the_training_before_anything_is_scored_or_handed_over(value, what):
    """1e38 is a number, but no network computes with it: the learning rate of that size leaves weights of that size."""
    toy, handed = Toy(), []

    def stepped():
        toy.steps_done += 1
        if toy.steps_done == 6:
            with torch.no_grad():
                toy.model.state_dict()[what].flatten()[0] = value

    toy.stepped = stepped
    with pytest.raises(UserError, match=rf"the training diverged in epoch 2: {what} is not finite; lower the learning rate") as caught:
        fit(toy, plan(0, 2), lambda epoch, metrics: handed.append(epoch))
    assert handed == toy.evaluated == [1] and "\n" not in str(caught.value)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("lr", [1e30, 1e37, 1e38])
def test_a_learning_rate_beyond_all_numbers_diverges_in_its_only_step(optimizer, lr):
    toy = Toy()
    toy.optimizer, toy.steps = optimizer(toy.model.parameters(), lr=1.0), 1
    toy.batches = lambda epoch: iter([(0, torch.ones(4, 4))])
    with pytest.raises(UserError, match=r"the training diverged in epoch 1: .*; lower the learning rate"):
        fit(toy, Plan(0, 1, lambda epoch: lr, CPU), lambda *_: pytest.fail("nothing to hand over"))


@pytest.mark.parametrize(("epoch", "said"), [(0, "the same command starts anew"), (2, "the checkpoint of epoch 2 remains")])
def test_an_interruption_says_which_epoch_remains_and_why_the_one_it_cut_off_does_not(capsys, epoch, said):
    toy, handed = Toy(), []

    def stepped():
        toy.steps_done += 1
        if toy.steps_done == 3 * epoch + 2:
            raise KeyboardInterrupt

    toy.stepped = stepped
    with pytest.raises(KeyboardInterrupt):
        fit(toy, plan(0, 4), lambda finished, metrics: handed.append(finished))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("taxon:")]
    assert line.startswith(f"taxon: interrupted in epoch {epoch + 1}: only whole epochs are kept") and said in line
    assert handed == list(range(1, epoch + 1))


def test_what_was_counted_over_the_batches_is_among_the_metrics():
    handed = []
    fit(Toy(), plan(0, 1), lambda epoch, metrics: handed.append(metrics["train/accuracy"]))
    assert handed == [0.5]


@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_training_is_bit_identical(tmp_path, cut):
    straight = Toy()
    fit(straight, plan(0, 5), lambda *_: None)

    first, resumed = Toy(), Toy()
    fit(first, plan(0, cut), lambda *_: None)
    path = states.save_checkpoint(tmp_path, states.TrainState(cut, first.model.state_dict(), first.optimizer.state_dict()))
    torch.manual_seed(99)
    found = states.load_checkpoint(path)
    resumed.model.load_state_dict(found.model)
    resumed.optimizer.load_state_dict(found.optimizer)
    fit(resumed, plan(found.epoch, 5), lambda *_: None)
    assert states.weights_digest(resumed.model.state_dict()) == states.weights_digest(straight.model.state_dict())


def test_the_seed_changes_what_is_drawn():
    one, other = Toy(), Toy()
    fit(one, plan(0, 1, seed=1), lambda *_: None)
    fit(other, plan(0, 1, seed=2), lambda *_: None)
    assert states.weights_digest(one.model.state_dict()) != states.weights_digest(other.model.state_dict())


def test_an_error_while_handing_over_stops_the_training():
    toy = Toy()

    def refuse(epoch, metrics):
        raise UserError("disk full")

    with pytest.raises(UserError, match="disk full"):
        fit(toy, plan(0, 3), refuse)
    assert toy.evaluated == [1]


def test_waiting_is_counted_and_items_pass_through():
    timed = Timed(iter([1, 2, 3]))
    assert list(timed) == [1, 2, 3]
    assert timed.waited >= 0


def test_accumulated_batches_are_one_step_of_their_mean_gradient_also_in_a_smaller_last_group():
    """Batches 0 and 1 make a step, batch 2 makes one by itself."""
    one, plain = Toy(), Toy()
    for toy in (one, plain):
        toy.model[1].p = 0.0
        toy.optimizer = torch.optim.SGD(toy.model.parameters(), lr=1.0)
    fit(one, plan(0, 1, accumulate=2), lambda *_: None)
    batches = list(plain.batches(0))
    for group in (batches[:2], batches[2:]):
        plain.optimizer.param_groups[0]["lr"] = 0.05
        plain.optimizer.zero_grad()
        torch.stack([plain.losses(batch, 0)["L_total"] for batch in group]).mean().backward()
        plain.optimizer.step()
    assert one.steps_done == 2
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, plain.model.state_dict()[name])


def test_gradients_are_clipped_to_the_norm():
    toy, norms = Toy(), []
    toy.stepped = lambda: None
    step = toy.optimizer.step
    toy.optimizer.step = lambda: (norms.append(torch.cat([p.grad.flatten() for p in toy.model.parameters()]).norm().item()), step())
    fit(toy, plan(0, 1, clip_norm=0.01), lambda *_: None)
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)
    norms.clear()
    fit(toy, plan(0, 1), lambda *_: None)
    assert min(norms) > 0.01


def test_a_groups_scale_multiplies_its_learning_rate():
    toy = Toy()
    groups = [{"params": toy.model[0].parameters()}, {"params": toy.model[2].parameters(), "lr_scale": 5.0}]
    toy.optimizer = torch.optim.AdamW(groups, lr=1.0)
    fit(toy, plan(0, 1), lambda *_: None)
    assert [group["lr"] for group in toy.optimizer.param_groups] == [0.05, 0.25]


def test_losses_of_every_so_many_batches_are_told_with_their_global_step():
    toy, told = Toy(), []
    fit(toy, plan(1, 3, log_interval=2, on_steps=lambda values, step: told.append((step, set(values)))), lambda *_: None)
    assert told == [(5, {"L_total", "L_part"}), (8, {"L_total", "L_part"})]


def test_a_training_ends_early_when_it_is_told_to():
    toy, handed = Toy(), []
    fit(toy, plan(0, 5, ended=lambda: len(handed) == 2), lambda epoch, metrics: handed.append(epoch))
    assert handed == [1, 2]


def test_a_loss_scaled_for_fp16_gives_the_same_step():
    scaled, plain = Toy(), Toy()
    fit(scaled, plan(0, 2, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0), clip_norm=1.0), lambda *_: None)
    fit(plain, plan(0, 2, clip_norm=1.0), lambda *_: None)
    for name, value in scaled.model.state_dict().items():
        torch.testing.assert_close(value, plain.model.state_dict()[name], rtol=1e-4, atol=1e-6)
