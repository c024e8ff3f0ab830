"""The model that is trained: what it registers, saves and moves."""

import copy

import pytest
import torch

from core.errors import UserError
from core.models.backbones import build
from core.models.discovery import DiscoveryModel
from core.models.heads import ProjectionHead


def model(seed: int = 1, out_dim: int = 30, grad_from_block: int = 2) -> DiscoveryModel:
    backbone = build("small_cnn", 8, grad_from_block, seed=seed)
    return DiscoveryModel(backbone, ProjectionHead(backbone.feature_dim, 32, 16, out_dim, seed=seed))


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_forward_gives_features_and_projections():
    net = model()
    features, projections = net(net.trunk(IMAGES))
    assert features.shape == (4, net.feature_dim) and projections.shape == (4, 30)
    assert torch.equal(net.features(net.trunk(IMAGES)), features)


def test_only_what_trains_is_registered():
    net = model()
    assert all(p.requires_grad for p in net.parameters())
    trunk = {id(p) for p in net.trunk.parameters()}
    assert trunk and not trunk & {id(p) for p in net.parameters()}
    assert {key.split(".")[0] for key in net.trainable_state()} == {"tail", "head"}
    net.train()
    assert not net.trunk.training


def test_moving_the_model_moves_the_trunk():
    net = model().to(torch.float64)
    assert {p.dtype for p in net.trunk.parameters()} == {torch.float64}
    assert net(net.trunk(IMAGES.double()))[1].dtype == torch.float64


def test_state_goes_round():
    net, other = model(), model()
    state = {key: value.clone() + 1 for key, value in net.trainable_state().items()}
    other.load_trainable_state(state)
    assert all(torch.equal(other.trainable_state()[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda s: s.pop("head.prototypes"), r"'head.prototypes' \(30, 16\) is missing"),
        (lambda s: s.update({"head.prototypes": torch.zeros(31, 16)}), r"has shape \(31, 16\), expected \(30, 16\)"),
        (lambda s: s.update({"extra": torch.zeros(2)}), r"'extra' \(2,\) is not part of the model"),
    ],
    ids=["missing", "shape", "unknown"],
)
def test_a_state_that_does_not_fit_is_refused_whole(spoil, message):
    net = model()
    before = {key: value.clone() for key, value in net.trainable_state().items()}
    state = {key: value + 1 for key, value in before.items()}
    spoil(state)
    with pytest.raises(UserError, match=message):
        net.load_trainable_state(state)
    assert all(torch.equal(net.trainable_state()[key], value) for key, value in before.items())


def test_a_copy_has_a_trunk_of_its_own():
    net = model()
    other = copy.deepcopy(net)
    assert other.trunk is not net.trunk
    assert torch.equal(other(other.trunk(IMAGES))[1], net(net.trunk(IMAGES))[1])


def test_the_whole_network_can_train():
    net = model(grad_from_block=0)
    assert net.trunk_digest == "" and torch.equal(net.trunk(IMAGES), IMAGES)
    net(net.trunk(IMAGES))[1].square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
