"""Post classifiers: each head is the layers it says, each ablation sees one side, weights load whole or not at all."""

import pytest
import torch
from torch import nn

from core.errors import UserError
from core.models.post_head_names import HEADS, MODALITIES
from core.models.post_heads import PostClassifier, described

VARIANTS = [(head, modalities) for head in HEADS for modalities in MODALITIES if head != "gated" or modalities == "both"]
every_variant = pytest.mark.parametrize("head, modalities", VARIANTS)


def embeddings(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 20, generator=generator), torch.randn(n, 30, generator=generator)


def linears(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize(
    "head, shapes", [("base", [(512, 256), (256, 3)]), ("ln", [(512, 256), (256, 3)]), ("mlp", [(512, 256), (256, 128), (128, 3)])]
)
def test_a_head_has_its_layers(head, shapes):
    model = PostClassifier(20, 30, 3, head)
    assert linears(model.text) == [(20, 256)] and linears(model.image) == [(30, 256)]
    assert linears(model.head) == shapes
    assert isinstance(model.head[0], nn.LayerNorm) == (head == "ln")


def test_the_head_is_the_plain_formula():
    model, (text, image) = PostClassifier(20, 30, 3, "base").eval(), embeddings()
    t, i = (model.text[0](text)).relu(), (model.image[0](image)).relu()
    torch.testing.assert_close(model(text, image), model.head[3](model.head[0](torch.cat([t, i], 1)).relu()))


def test_the_gate_is_the_plain_formula():
    model, (text, image) = PostClassifier(20, 30, 3, "gated").eval(), embeddings()
    t, i = (model.text[0](text)).relu(), (model.image[0](image)).relu()
    g = 1 / (1 + torch.exp(-(torch.cat([t, i], 1) @ model.gate.weight.T + model.gate.bias)))
    joined = torch.cat([g * i, (1 - g) * t], 1)
    torch.testing.assert_close(model(text, image), model.head[3](model.head[0](joined).relu()))


def test_an_open_gate_hears_the_image_alone():
    model, (text, image) = PostClassifier(20, 30, 3, "gated").eval(), embeddings()
    with torch.no_grad():
        model.gate.bias.fill_(1e4)
    torch.testing.assert_close(model(text, image), model(-text, image))
    assert not torch.allclose(model(text, image), model(text, -image))


@pytest.mark.parametrize("modalities, seen", [("both", {"text", "image"}), ("image_only", {"image"}), ("text_only", {"text"})])
@pytest.mark.parametrize("head", ["base", "ln", "mlp"])
def test_an_ablation_sees_one_side(head, modalities, seen):
    model, (text, image) = PostClassifier(20, 30, 3, head, modalities).eval(), embeddings()
    logits = model(text, image)
    changed = {"text": model(-text, image), "image": model(text, -image)}
    assert {side for side, other in changed.items() if not torch.allclose(other, logits)} == seen


@every_variant
def test_everything_in_it_trains(head, modalities):
    model = PostClassifier(20, 30, 3, head, modalities)
    model(*embeddings()).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every_variant
def test_the_seed_decides_and_the_global_generator_stays(head, modalities):
    before = torch.get_rng_state()
    one, same, other = (PostClassifier(20, 30, 3, head, modalities, seed=s).eval()(*embeddings()) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_dropout_acts_in_training_only():
    for dropout, differs in ((0.0, False), (0.5, True)):
        model = PostClassifier(20, 30, 3, dropout=dropout)
        training, evaluation = model.train()(*embeddings()), model.eval()(*embeddings())
        assert torch.allclose(training, evaluation) != differs
    assert sum(isinstance(m, nn.Dropout) for m in PostClassifier(20, 30, 3, "mlp").modules()) == 4


@every_variant
def test_weights_of_every_other_variant_are_named_and_refused(head, modalities):
    mine = PostClassifier(20, 30, 3, head, modalities)
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    for other in VARIANTS:
        state = PostClassifier(20, 30, 3, *other, seed=2).state_dict()
        assert described(state) == f"head={other[0]}, modalities={other[1]}"
        if other == (head, modalities):
            continue
        with pytest.raises(UserError, match=f"x has the weights of head={other[0]}, modalities={other[1]}, not of head={head}"):
            mine.load_weights(state, "x")
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())


@every_variant
def test_its_own_weights_load(head, modalities):
    one, two = (PostClassifier(20, 30, 3, head, modalities, seed=s).eval() for s in (1, 2))
    two.load_weights(one.state_dict(), "x")
    assert torch.equal(one(*embeddings()), two(*embeddings()))


def test_weights_of_other_widths_or_of_no_classifier_are_refused():
    model = PostClassifier(20, 30, 3)
    with pytest.raises(UserError, match=r"x does not fit head=base: 'head\.3\.weight' has shape \(4, 256\), expected \(3, 256\)"):
        model.load_weights(PostClassifier(20, 30, 4).state_dict(), "x")
    with pytest.raises(UserError, match="x has the weights of no post classifier"):
        model.load_weights({"conv1.weight": torch.zeros(3)}, "x")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"head": "gate"}, "head_variant=gate is unknown.*did you mean 'gated'"),
        ({"modalities": "image"}, "modalities=image is unknown.*did you mean 'image_only'"),
        ({"head": "gated", "modalities": "text_only"}, "head_variant=gated .* needs both"),
        ({"dropout": 1.0}, "dropout=1.0 must be"),
    ],
)
def test_bad_settings_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        PostClassifier(20, 30, 3, **options)
