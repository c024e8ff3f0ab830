"""The posts task's parts against plain formulas: losses of one size, rates, dropped tokens."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from core.models.post_heads import PostClassifier
from core.models.post_net import PostNet
from core.models.tokenizers import VOCABULARY, ClipTokenizer, SentenceTokenizer
from core.training.posts import PostLoss, augmented, drop_tokens, groups_of, rate
from tests.core.models import tiny_clip, tiny_sentences

COUNTS = torch.tensor([30, 10, 60])
LABELS = torch.repeat_interleave(torch.arange(3), COUNTS)


@pytest.mark.parametrize("loss", ["ce", "focal", "cb", "combo"])
def test_every_loss_starts_at_the_size_of_cross_entropy(loss):
    value = PostLoss(loss, 2.0, 0.9999, COUNTS)(torch.zeros(len(LABELS), 3), LABELS)
    assert float(value) == pytest.approx(math.log(3), rel=1e-5)


def test_losses_are_their_formulas():
    logits = torch.randn(len(LABELS), 3, generator=torch.Generator().manual_seed(0))
    log_p = logits.log_softmax(1).gather(1, LABELS[:, None])[:, 0]
    weights = (1 - 0.99) / (1 - 0.99 ** COUNTS.double())
    weights = (weights * 100 / (weights * COUNTS).sum()).float()[LABELS]
    focal = (1 - log_p.exp()) ** 1.5 / (2 / 3) ** 1.5
    expected = {"ce": -log_p, "focal": -focal * log_p, "cb": -weights * log_p, "combo": -weights * focal * log_p}
    for name, value in expected.items():
        assert float(PostLoss(name, 1.5, 0.99, COUNTS)(logits, LABELS)) == pytest.approx(float(value.mean()), rel=1e-5)
    assert float(PostLoss("ce", 1.5, 0.99, COUNTS)(logits, LABELS)) == pytest.approx(float(F.cross_entropy(logits, LABELS)), rel=1e-5)


@given(st.integers(1, 200), st.floats(0, 1), st.booleans())
def test_rates_rise_to_one_and_never_leave_0_to_1(total, warmup, cosine):
    rates = [rate(step, total, warmup, cosine) for step in range(total)]
    warm = round(warmup * total)
    assert all(0 <= value <= 1 for value in rates)
    assert rates[:warm] == pytest.approx([(step + 1) / warm for step in range(warm)])
    assert all(b <= a for a, b in zip(rates[warm:], rates[warm + 1 :], strict=False)) and (cosine or set(rates[warm:]) <= {1.0})


@pytest.mark.parametrize("kind", ["CLIP", "sentence encoder"])
def test_dropped_tokens_leave_start_end_and_order(kind):
    saved = SentenceTokenizer(tiny_sentences.tokenizer(16).to_str(), 12, 0)
    tokenizer, end = (ClipTokenizer(12), VOCABULARY - 1) if kind == "CLIP" else (saved, 3)
    tokens = tokenizer(["one two three four five six", "", "a"])
    assert torch.equal(drop_tokens(tokens.ids, 0.0, torch.Generator(), tokenizer), tokens.ids)
    for seed in range(20):
        found = drop_tokens(tokens.ids, 0.5, torch.Generator().manual_seed(seed), tokenizer)
        for before, after in zip(tokens.ids.tolist(), found.tolist(), strict=True):
            left = [token for token in after if token]
            assert left[0] == before[0] and left[-1] == end and after[len(left) :] == [0] * (12 - len(left))
            rest = iter(before)
            assert all(token in rest for token in left)


def test_a_variant_is_drawn_by_key_and_number_alone():
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augmented(pixels, 1, "a", 1), augmented(pixels, 1, "a", 1))
    others = [augmented(pixels, 2, "a", 1), augmented(pixels, 1, "b", 1), augmented(pixels, 1, "a", 0), pixels]
    assert not any(torch.equal(augmented(pixels, 1, "a", 1), other) for other in others)


def grouped(image="clip:small-64x2", pretrained=("visual", "text"), lora=0, lock="", **options):
    """Return the network and its optimiser's groups."""
    towers = tiny_clip.towers(image)
    head = PostClassifier(towers.text.width, towers.visual.width, 3, "ln", "both", 0.0, 1)
    net = PostNet(towers, head, 3)
    if lora:
        tiny_clip.add_lora(net, lora)
    if lock:
        net.towers[lock].lock()
    config = SimpleNamespace(**{"lr": 0.01, "head_lr": 1.0, "layer_decay": 1.0, "weight_decay": 0.1} | options)
    return net, groups_of(net, pretrained, config)


@pytest.mark.parametrize("image", [tiny_clip.IMAGE, "resnet10t", "vit_tiny_patch16_224", "small_cnn"])
def test_every_trained_parameter_is_in_one_group(image):
    net, groups = grouped(image, layer_decay=0.7)
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(id(p) for p in net.parameters() if p.requires_grad)


def test_rates_of_pretrained_towers_fall_from_the_top_and_others_learn_as_the_head():
    net, groups = grouped(pretrained=("visual",), layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    first, second = net.visual.body.transformer.resblocks
    assert scale[id(first.mlp.c_fc.weight)] == 0.5 * scale[id(second.mlp.c_fc.weight)] == 2 * scale[id(net.visual.body.conv1.weight)]
    assert {scale[id(p)] for p in [*net.text.parameters(), *net.head.parameters()] if p.requires_grad} == {100.0}
    _, flat = grouped()
    assert {group["lr_scale"] for group in flat if not group["name"].startswith("head")} == {1.0}


def test_only_matrices_decay():
    net, groups = grouped(layer_decay=0.5)
    decayed = [p for group in groups if group["weight_decay"] for p in group["params"]]
    assert decayed and all(p.ndim >= 2 for p in decayed)
    assert not any(p is net.visual.body.positional_embedding for p in decayed)


def test_a_low_rank_change_trains_alone_and_a_locked_tower_has_no_group():
    net, groups = grouped(lora=2, lock="visual")
    towers = [group for group in groups if not group["name"].startswith("head")]
    assert towers and all(group["name"].startswith("text") for group in towers)
    assert sum(len(group["params"]) for group in towers) == sum(1 for p in net.text.parameters() if p.requires_grad) == 16
