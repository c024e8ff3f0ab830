"""Heads, and classifiers of which only a part trains."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models.backbones import build
from core.models.classifiers import LEVELS, Classifier, CosineHead, FewShotHead, linear_head

HEADS = {
    "linear": lambda seed=1: linear_head(6, 4, seed),
    "cosine": lambda seed=1: CosineHead(6, 4, seed=seed),
    "fewshot": lambda seed=1: FewShotHead(6, 4, 8, 0.5, seed),
}
every_head = pytest.mark.parametrize("make", HEADS.values(), ids=HEADS.keys())
every_level = pytest.mark.parametrize("level", LEVELS)


class TinyNet(nn.Module):
    """Two stages with BatchNorm and dropout each; features (B, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5))
        self.second = nn.Sequential(nn.Conv2d(5, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.second(self.first(x)))


def model(dropout: float = 0.0, head: nn.Module | None = None, frozen_backbone: bool = False) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = TinyNet()
    heads = nn.ModuleDict({"label": head or linear_head(6, 4), "crop": linear_head(6, 2, seed=2)})
    return Classifier(net, 6, heads, dropout, frozen_backbone)


def images(n: int = 8, size: int = 8) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def features(n: int = 5) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(2))


def step(classifier: nn.Module, x: Tensor) -> None:
    out = classifier(x)
    sum(out[name].square().sum() for name in classifier.heads).backward()


def with_gradient(classifier: nn.Module) -> set[str]:
    return {name for name, p in classifier.named_parameters() if p.grad is not None}


@every_head
def test_a_head_gives_one_logit_a_class_and_all_of_it_trains(make):
    head = make()
    out = head(features())
    out.square().sum().backward()
    assert out.shape == (5, 4) and (head.in_features, head.out_features) == (6, 4)
    assert all(p.grad.abs().sum() > 0 and p.grad.isfinite().all() for p in head.parameters())


@every_head
def test_the_seed_decides_a_head_and_the_global_generator_stays(make):
    before = torch.get_rng_state()
    one, same, other = (make(seed).eval()(features()) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same) and not torch.allclose(one, other)


def test_a_linear_head_starts_in_pytorchs_range():
    head = linear_head(400, 50)
    assert isinstance(head, nn.Linear) and 0.049 < head.weight.max() <= 0.05 and -0.05 <= head.bias.min() < 0


@pytest.mark.parametrize("scale", [None, 7.0])
def test_a_cosine_head_is_the_plain_formula(scale):
    head = CosineHead(6, 4) if scale is None else CosineHead(6, 4, scale)
    with torch.no_grad():
        head.weight.mul_(torch.tensor([[0.1], [1.0], [3.0], [10.0]]))
    got, weights = head(features()), head.weight.tolist()
    for i, row in enumerate(features().tolist()):
        for c, weight in enumerate(weights):
            cosine = sum(a * b for a, b in zip(row, weight, strict=True)) / math.hypot(*row) / math.hypot(*weight)
            assert got[i, c].item() == pytest.approx((scale or 30.0) * cosine, abs=1e-4)


def test_a_cosine_head_keeps_float32_under_autocast():
    head = CosineHead(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = head(features())
    assert got.dtype == torch.float32 and torch.equal(got, head(features()))
    assert head(features().double()).dtype == torch.float64


def test_a_cosine_head_takes_the_directions_of_a_linear_one():
    linear = linear_head(6, 4)
    head = CosineHead.from_linear(linear, scale=5.0)
    torch.testing.assert_close(head(features()), 5 * F.cosine_similarity(features()[:, None], linear.weight[None], dim=2))
    assert head.weight.requires_grad and head.weight is not linear.weight
    assert CosineHead.from_linear(linear).scale == 30.0
    with torch.no_grad():
        linear.weight[2] = 0
    with pytest.raises(ValueError, match="class 2 are zero"):
        CosineHead.from_linear(linear)


def test_a_few_shot_head_is_linear_relu_dropout_linear():
    head = FewShotHead(6, 4).eval()
    assert head.hidden.out_features == 512 and head.dropout.p == 0.5
    torch.testing.assert_close(head(features()), head.last(head.hidden(features()).clamp_min(0)))
    assert not torch.equal(head.train()(features()), head(features()))
    still = FewShotHead(6, 4, hidden=8, dropout=0.0)
    assert still.hidden.out_features == 8 and torch.equal(still.train()(features()), still(features()))


def test_it_gives_features_and_the_logits_of_every_head():
    classifier = model(dropout=0.9).eval()
    out = classifier(images())
    assert {name: tuple(x.shape) for name, x in out.items()} == {"features": (8, 6), "label": (8, 4), "crop": (8, 2)}
    assert torch.equal(out["features"], classifier.features(images())) and torch.equal(out["features"], classifier.net(images()))
    for name in ("label", "crop"):
        assert torch.equal(out[name], classifier.heads[name](out["features"]))
        assert torch.equal(out[name], classifier.classify(out["features"])[name])


def test_dropout_of_the_features_is_active_only_in_training_and_never_in_the_features_given():
    classifier = model(dropout=0.5)
    one, other = (classifier.train().classify(features()) for _ in range(2))
    assert not torch.equal(one["label"], other["label"]) and torch.equal(one["features"], features())
    one, other = (classifier.eval().classify(features()) for _ in range(2))
    assert torch.equal(one["label"], other["label"])
    one, other = (model(dropout=0.0).train().classify(features()) for _ in range(2))
    assert torch.equal(one["label"], other["label"])


@every_level
def test_gradients_reach_exactly_what_the_level_trains(level):
    classifier = model().train()
    # Stale gradients of all parameters must go with the level, too.
    step(classifier, images())
    classifier.set_trained(level)
    expected = {
        "head": ("heads.",),
        "last_stage": ("heads.", "net.second."),
        "all": ("heads.", "net."),
    }[level]
    assert {name for name in with_gradient(classifier) if not name.startswith(expected)} == set()
    classifier.zero_grad(set_to_none=True)
    step(classifier, images())
    assert with_gradient(classifier) == {name for name, _ in classifier.named_parameters() if name.startswith(expected)}
    assert with_gradient(classifier) == {name for name, p in classifier.named_parameters() if p.requires_grad}


@every_level
def test_statistics_and_dropout_of_what_is_frozen_rest_and_the_others_move(level):
    classifier = model()
    classifier.set_trained(level)
    # A loop switches the mode around each evaluation.
    classifier.train().eval()
    classifier.train()
    before = {name: b.clone() for name, b in classifier.net.named_buffers()}
    classifier(images())
    moved = {name.split(".")[0] for name, b in classifier.net.named_buffers() if not torch.equal(b, before[name])}
    assert moved == {"head": set(), "last_stage": {"second"}, "all": {"first", "second"}}[level]
    active = {name.split(".")[0] for name, m in classifier.net.named_modules() if isinstance(m, nn.Dropout) and m.training}
    assert active == moved and classifier.training and classifier.heads["label"].training


def test_levels_can_be_walked_up_and_down_and_hold_in_the_mode_at_hand():
    classifier = model().eval()
    assert classifier.level == "all"
    for level in ("head", "last_stage", "all", "head"):
        classifier.set_trained(level)
        assert not any(m.training for m in classifier.modules())
        trained = {name.split(".")[1] for name, p in classifier.net.named_parameters(prefix="net") if p.requires_grad}
        assert trained == {"head": set(), "last_stage": {"second"}, "all": {"first", "second"}}[level]
    classifier.train().set_trained("last_stage")
    assert classifier.net.second[1].training and not classifier.net.first[1].training


def test_a_level_wakes_heads_that_were_put_to_rest():
    classifier = model().requires_grad_(False)
    classifier.set_trained("head")
    assert {name for name, p in classifier.named_parameters() if p.requires_grad} == {
        f"heads.{name}" for name in classifier.heads.state_dict()
    }


def test_a_copy_keeps_the_level():
    classifier = model()
    classifier.set_trained("head")
    twin = copy.deepcopy(classifier).train()
    assert twin.level == "head" and not twin.net.first[1].training and twin.heads["label"].training


@pytest.mark.parametrize(
    "name, last", [("small_cnn", "net.net.blocks.2"), ("mobilenetv2_100", "net.net.blocks.6"), ("resnet18", "net.net.layer4")]
)
def test_a_built_backbone_trains_its_last_stage(name, last):
    backbone = build(name, 32, 0, pretrained=False)
    classifier = Classifier(backbone.tail, backbone.feature_dim, nn.ModuleDict({"label": linear_head(backbone.feature_dim, 4)}))
    classifier.set_trained("last_stage")
    classifier.train()
    before = {name: b.clone() for name, b in classifier.net.named_buffers(prefix="net")}
    step(classifier, images(4, 32))
    closing = ("net.net.conv_head", "net.net.bn2") if name == "mobilenetv2_100" else ()
    expected = {name for name, _ in classifier.named_parameters() if name.startswith((last, "heads.", *closing))}
    assert with_gradient(classifier) == expected and len(expected) > 4
    moved = {name for name, b in classifier.net.named_buffers(prefix="net") if not torch.equal(b, before[name])}
    assert moved == {name for name in before if name.startswith((last, *closing))}


def test_frozen_batch_norm_of_the_backbone_stays_frozen_where_the_rest_trains():
    backbone = build("resnet18", 32, 0, pretrained=False, batch_norm="frozen")
    classifier = Classifier(backbone.tail, 512, nn.ModuleDict({"label": linear_head(512, 4)})).train()
    assert not classifier.net.net.layer4[0].bn1.training and classifier.net.net.layer4[0].training


@every_level
def test_a_few_shot_backbone_stays_frozen_whatever_the_level(level):
    classifier = model(head=FewShotHead(6, 4, 8), frozen_backbone=True)
    classifier.set_trained(level)
    classifier.train()
    before = {name: b.clone() for name, b in classifier.net.named_buffers()}
    step(classifier, images())
    assert with_gradient(classifier) == {name for name, _ in classifier.named_parameters() if name.startswith("heads.")}
    assert all(torch.equal(b, before[name]) for name, b in classifier.net.named_buffers())
    assert not any(m.training for m in classifier.net.modules()) and classifier.heads["label"].dropout.training


def test_the_logit_bias_joins_the_labels_logits_in_evaluation_only_and_is_saved():
    classifier = model()
    assert torch.equal(classifier.logit_bias, torch.zeros(4)) and not classifier.logit_bias.requires_grad
    bias = torch.tensor([0.0, 1.0, -2.0, 5.0])
    before = {training: classifier.train(training).classify(features()) for training in (True, False)}
    classifier.logit_bias.copy_(bias)
    for training, plain in before.items():
        out = classifier.train(training).classify(features())
        torch.testing.assert_close(out["label"], plain["label"] + (0 if training else bias))
        assert torch.equal(out["crop"], plain["crop"])
    twin = model()
    twin.load_state_dict(classifier.state_dict())
    assert torch.equal(twin.eval()(images())["label"], classifier.eval()(images())["label"])


@pytest.mark.parametrize("kind", ["linear", "fewshot"])
def test_the_cosine_head_takes_the_place_of_the_linear_layer(kind):
    classifier = model(head=HEADS[kind]()).train()
    linear = classifier.heads["label"] if kind == "linear" else classifier.heads["label"].last
    names = [name for name, _ in classifier.named_children()], list(classifier.heads)
    cosine = classifier.to_cosine(scale=20.0)
    assert (classifier.heads["label"] if kind == "linear" else classifier.heads["label"].last) is cosine
    torch.testing.assert_close(cosine.weight.detach(), F.normalize(linear.weight.detach(), dim=1))
    assert cosine.scale == 20.0 and cosine.training and ([name for name, _ in classifier.named_children()], list(classifier.heads)) == names
    step(classifier, images())
    assert cosine.weight.grad.abs().sum() > 0 and classifier(images())["label"].abs().max() <= 20 + 1e-4
    assert classifier.to_cosine() is cosine


def test_a_cosine_head_in_place_trains():
    classifier = model(head=linear_head(6, 4))
    classifier.set_trained("head")
    cosine = classifier.to_cosine()
    optimizer = torch.optim.SGD(cosine.parameters(), lr=0.01)
    labels, losses = torch.arange(8) % 4, []
    for _ in range(20):
        losses.append(F.cross_entropy(classifier(images())["label"], labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_heads_and_levels_that_do_not_fit_are_refused():
    net = TinyNet()
    with pytest.raises(ValueError, match="needs a head 'label' and none named 'features', got crop"):
        Classifier(net, 6, nn.ModuleDict({"crop": linear_head(6, 2)}))
    with pytest.raises(ValueError, match="none named 'features'"):
        Classifier(net, 6, nn.ModuleDict({"label": linear_head(6, 2), "features": linear_head(6, 2)}))
    with pytest.raises(ValueError, match="head 'label' takes features of width 5, the backbone gives 6"):
        Classifier(net, 6, nn.ModuleDict({"label": linear_head(5, 2)}))
    with pytest.raises(ValueError, match="level half is unknown; give one of head, last_stage, all"):
        model().set_trained("half")
    with pytest.raises(ValueError, match="no last stage is found in a backbone of type Flatten"):
        Classifier(nn.Flatten(), 6, nn.ModuleDict({"label": linear_head(6, 2)})).set_trained("last_stage")
    with pytest.raises(ValueError, match="made from a linear one, not from Bilinear"):
        odd = model()
        odd.heads["label"] = nn.Bilinear(6, 6, 4)
        odd.to_cosine()
