"""Center loss against its plain formula, and its centres."""

import pytest
import torch

from core.losses.center import CenterLoss

TARGETS = {
    "one-hot": torch.eye(3, dtype=torch.float64)[[0, 2, 2, 1]],
    "mixed": torch.tensor([[0.3, 0.7, 0], [1, 0, 0], [0, 0.5, 0.5], [0, 0, 1]], dtype=torch.float64),
    "smoothed": 0.9 * torch.eye(3, dtype=torch.float64)[[0, 2, 2, 1]] + 0.1 / 3,
}
every_target = pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())


def features(n: int = 4, dim: int = 5) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@every_target
def test_it_is_the_plain_formula(targets):
    center, f = CenterLoss(3, 5).double(), features()
    total = 0.0
    for i in range(4):
        length = sum(f[i, d].item() ** 2 for d in range(5)) ** 0.5
        for c in range(3):
            total += targets[i, c].item() * sum((f[i, d].item() / length - center.centres[c, d].item()) ** 2 for d in range(5))
    assert center(f, targets).item() == pytest.approx(total / 4, abs=1e-12)


@every_target
def test_features_and_centres_learn(targets):
    center, f = CenterLoss(3, 5).double(), features().requires_grad_()

    def loss(f: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(center, {"centres": centres}, (f, targets))

    assert torch.autograd.gradcheck(loss, (f, center.centres.detach().requires_grad_()))


def test_a_step_brings_features_and_centres_together():
    center, targets, f = CenterLoss(3, 5), TARGETS["one-hot"], features().float().requires_grad_()
    before = center(f, targets)
    before.backward()
    torch.optim.SGD([f, *center.parameters()], lr=0.1).step()
    assert center(f, targets) < before and [name for name, _ in center.named_parameters()] == ["centres"]


def test_small_distances_are_exact():
    center = CenterLoss(1, 4).from_features(torch.full((1, 4), 3.0), torch.tensor([0]))
    torch.nn.init.constant_(center.centres, 0.5 + 2**-12)
    assert center(torch.full((2, 4), 1000.0), torch.ones(2, 1)).item() == 4 * 2**-24


@pytest.mark.parametrize("n_classes", [3, 40])
def test_the_loss_means_the_same_at_any_width_and_scale_of_features(n_classes):
    found = []
    labels = torch.arange(n_classes).repeat(30)
    for dim, scale in ((64, 1.0), (2048, 7.0), (2048, 0.01)):
        generator = torch.Generator().manual_seed(dim)
        means = torch.randn(n_classes, dim, generator=generator)
        f = scale * (means[labels] + torch.randn(len(labels), dim, generator=generator))
        center = CenterLoss(n_classes, dim).from_features(f, labels)
        found.append(center(f, torch.eye(n_classes)[labels]).item())
    assert found == pytest.approx([found[0]] * 3, rel=0.05) and 0.3 < found[0] < 0.7


def test_the_loss_stays_below_4_with_centres_of_length_1():
    center = CenterLoss(3, 5)
    torch.testing.assert_close(center.centres.detach().norm(dim=1), torch.ones(3))
    assert center(-100 * center.centres.detach(), torch.eye(3)).item() == pytest.approx(4)


def test_centres_start_as_class_means_where_there_are_features():
    center, f = CenterLoss(3, 5), features()
    kept = center.centres[1].clone()
    assert center.from_features(f, torch.tensor([0, 2, 2, 0])) is center
    f = torch.nn.functional.normalize(f, dim=1)
    torch.testing.assert_close(center.centres.detach(), torch.stack([f[[0, 3]].mean(dim=0), kept, f[[1, 2]].mean(dim=0)]).float())
    assert center.centres.requires_grad and center.centres.is_leaf


def test_the_seed_decides_the_centres_and_the_global_generator_stays():
    before = torch.get_rng_state()
    one, same, other = (CenterLoss(3, 5, seed).centres for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_half_precision_features_are_compared_in_float32():
    center, f = CenterLoss(3, 5), features().bfloat16()
    torch.testing.assert_close(center(f, TARGETS["mixed"]), center(f.float(), TARGETS["mixed"]))


def test_an_empty_batch_gives_zero_with_a_graph():
    center = CenterLoss(3, 5)
    loss = center(torch.zeros(0, 5), torch.zeros(0, 3))
    loss.backward()
    assert loss.item() == 0 and (center.centres.grad == 0).all()


def test_what_does_not_fit_is_refused():
    center = CenterLoss(3, 5)
    with pytest.raises(ValueError, match=r"targets \(4, 2\) do not fit 3 centres of width 5"):
        center(torch.zeros(4, 5), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"features \(4, 6\)"):
        center(torch.zeros(4, 6), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"labels -1\.\.1 are outside 0\.\.2"):
        center.from_features(torch.zeros(2, 5), torch.tensor([-1, 1]))
    with pytest.raises(ValueError, match=r"do not fit centres of width 5"):
        center.from_features(torch.zeros(2, 5), torch.tensor([1]))
