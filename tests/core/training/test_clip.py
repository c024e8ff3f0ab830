"""What SuperCLIP trains: weights, draws, losses against plain formulas."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from core.losses.word_supervision import words_present
from core.models.clip_sentences import SentenceClip, class_means
from core.models.word_head import WordHead
from core.training.clip import ClipTask, KeptViews, class_weights
from tests.core.models import tiny_clip

COUNTS = torch.tensor([10, 5, 1])
LABELS = torch.tensor([0, 0, 1, 2, 0, 1])
TEXTS = {1: ["a bar", "a cross", "a dot"], 2: ["a bar", "one bar", "a cross", "one cross", "a dot", "one dot"]}
CONFIG = {
    "use_superclip_loss": False,
    "class_loss_weight": 1.0,
    "contrastive_loss_weight": 1.0,
    "contrastive_targets": "multi_positive",
    "use_class_weights": True,
    "weight_method": "inverse_freq",
    "weight_smooth_factor": 1.0,
    "word_supervision_weight": 1.0,
    "weight_decay": 0.01,
    "learning_rate": 1e-3,
}


@pytest.mark.parametrize(
    "method, raw",
    [
        ("inverse_freq", [1 / 10, 1 / 5, 1.0]),
        ("sqrt_inverse", [10**-0.5, 5**-0.5, 1.0]),
        ("effective_num", [1e-4 / (1 - 0.9999**n) for n in (10, 5, 1)]),
    ],
)
@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0])
def test_class_weights_follow_their_formula(method, raw, exponent):
    found = class_weights(COUNTS, method, exponent).double()
    expected = torch.tensor(raw, dtype=torch.float64) ** exponent
    torch.testing.assert_close(found / found[2], expected / expected[2], rtol=1e-5, atol=1e-6)
    assert (found * COUNTS).sum().item() == pytest.approx(16)


def kept(n=20, rows=12, batch_size=5, weights=None, seed=1, **place) -> KeptViews:
    outputs = torch.arange(3.0)[:, None, None] * 100 + torch.arange(float(n))[None, :, None]
    return KeptViews(outputs, np.arange(rows) + 4, batch_size, weights, seed, **place)


@given(seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_kept_views_are_a_pure_function_of_seed_and_epoch(seed, epoch):
    one, other = (list(kept(seed=seed).epoch(epoch)) for _ in range(2))
    assert all(torch.equal(a.views, b.views) and torch.equal(a.indices, b.indices) for a, b in zip(one, other, strict=True))
    indices = torch.cat([batch.indices for batch in one])
    assert len(indices) == 10 == len(indices.unique()) and indices.max() < 12
    assert torch.equal(torch.cat([b.views for b in one])[:, 0] % 100, (indices + 4).float())


def test_kept_views_differ_from_epoch_to_epoch_and_use_all_views():
    drawn = [torch.cat([b.views for b in kept().epoch(e)])[:, 0] for e in range(8)]
    assert not torch.equal(drawn[0], drawn[1]) and len((torch.cat(drawn) // 100).unique()) == 3


def test_two_ranks_see_what_one_sees():
    whole = [b.indices for b in kept(batch_size=4).epoch(3)]
    parts = [[b.indices for b in kept(batch_size=4, rank=r, world_size=2).epoch(3)] for r in (0, 1)]
    assert all(torch.equal(w, torch.cat(p)) for w, p in zip(whole, zip(*parts, strict=True), strict=True))


def test_weights_decide_how_often_an_image_is_drawn():
    weights = np.r_[np.zeros(6), np.ones(6)]
    drawn = torch.cat([b.indices for e in range(5) for b in kept(weights=weights).epoch(e)])
    assert drawn.min() >= 6


def task(per_class=1, words=False, **options) -> ClipTask:
    towers, texts = tiny_clip.towers(), TEXTS[per_class]
    tokens = towers.tokenizer(texts)
    words_of = None
    if words:
        present = words_present(tokens.ids, tokens.word_mask, 49408)
        words_of = present[:, present.any(dim=0)]
    head = WordHead(64, words_of.shape[1]) if words else None
    model = SentenceClip(towers, tokens.ids, torch.arange(3).repeat_interleave(per_class), head)
    return ClipTask(model, LABELS, words_of, None, False, lambda e: {}, SimpleNamespace(**CONFIG | options), torch.device("cpu"))


def parts(t: ClipTask, drawn: torch.Tensor):
    """Return what the formulas below are made of: image and text embeddings, scale."""
    t.model.eval()
    images = tiny_clip.images(6)
    with torch.no_grad():
        losses = t.losses((images, LABELS, drawn), 0)
        return losses, F.normalize(t.model.embed(images)), t.model.encode_sentences(torch.arange(len(t.model.class_of)))


FIRST = {1: LABELS, 2: 2 * LABELS}


def plain_contrast(images, texts, positive) -> float:
    logits = images @ F.normalize(texts).T / 0.07
    targets = positive / positive.sum(dim=1, keepdim=True)
    one = -(targets * logits.log_softmax(1)).sum(1).mean()
    other = -(targets * logits.T.log_softmax(1)).sum(1).mean()
    return ((one + other) / 2).item()


@pytest.mark.parametrize("targets", ["multi_positive", "instance"])
def test_the_contrast_is_the_plain_formula(targets):
    t = task(2, contrastive_targets=targets)
    drawn = torch.tensor([0, 1, 2, 4, 0, 3])
    losses, images, texts = parts(t, drawn)
    positive = torch.eye(6) if targets == "instance" else (LABELS[:, None] == LABELS).float()
    assert losses["L_total"].item() == pytest.approx(plain_contrast(images, texts[drawn], positive), rel=1e-4)
    assert set(losses) == {"L_total", "L_contrastive", "temperature"}


def test_the_targets_differ_only_where_classes_have_several_sentences():
    found = {}
    for per_class, drawn in ((1, LABELS), (2, torch.tensor([0, 1, 2, 4, 0, 3]))):
        for targets in ("multi_positive", "instance"):
            found[per_class, targets] = parts(task(per_class, contrastive_targets=targets), drawn)[0]["L_total"].item()
    assert found[1, "multi_positive"] == pytest.approx(found[1, "instance"], rel=1e-5)
    assert found[2, "multi_positive"] != pytest.approx(found[2, "instance"], rel=1e-3)


@pytest.mark.parametrize("weighted", [True, False])
def test_superclip_is_the_weighted_sum_of_both_terms(weighted):
    t = task(2, use_superclip_loss=True, class_loss_weight=0.7, contrastive_loss_weight=1.9, use_class_weights=weighted)
    losses, images, texts = parts(t, FIRST[2])
    classes = class_means(texts, t.model.class_of, 3)
    each = -(images @ F.normalize(classes).T / 0.07).log_softmax(1)[torch.arange(6), LABELS]
    weights = torch.tensor([1 / 3, 1 / 2, 1.0])[LABELS] if weighted else torch.ones(6)
    expected = ((weights * each).sum() / weights.sum()).item()
    assert losses["L_class"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["L_total"].item() == pytest.approx(0.7 * expected + 1.9 * losses["L_contrastive"].item(), rel=1e-5)


@pytest.mark.parametrize("superclip", [True, False])
def test_an_answer_on_a_training_batch_is_the_class_of_the_nearest_sentence(superclip):
    """With the class term among all classes, with the contrast alone among the sentences that were drawn."""
    t = task(2, use_superclip_loss=superclip)
    drawn = torch.tensor([0, 1, 2, 4, 0, 3])
    _losses, images, texts = parts(t, drawn)
    rows = torch.arange(6) if superclip else drawn.unique()
    sentences = F.normalize(class_means(texts, t.model.class_of, 3) if superclip else texts[rows])
    nearest = (images @ sentences.T).argmax(dim=1)
    answers = nearest if superclip else t.model.class_of[rows[nearest]]
    assert t.tally() == {"train/accuracy": (answers == LABELS).sum().item() / 6} and t.tally() == {}


@pytest.mark.parametrize("superclip", [True, False])
def test_the_validation_loss_is_split_into_the_training_losses_parts(superclip):
    """One batch holds all six images here, so that the contrast is that of a training batch with the same sentences."""
    t = task(1, use_superclip_loss=superclip, batch_size=6)
    losses, images, texts = parts(t, LABELS)
    found = t.validation_losses(images, texts, LABELS)
    assert found["L_contrastive"] == pytest.approx(losses["L_contrastive"].item(), rel=1e-4)
    each = -(images @ F.normalize(texts).T / 0.07).log_softmax(1)[torch.arange(6), LABELS]
    weights = torch.tensor([1 / 3, 1 / 2, 1.0])[LABELS]
    assert found["L_class"] == pytest.approx(((weights * each).sum() / weights.sum()).item(), rel=1e-4)
    assert not superclip or found["L_class"] == pytest.approx(losses["L_class"].item(), rel=1e-4)
    smaller = task(1, use_superclip_loss=superclip, batch_size=4).validation_losses(images, texts, LABELS)
    assert smaller["L_class"] == found["L_class"] and smaller["L_contrastive"] < found["L_contrastive"]


def test_word_supervision_adds_its_weighted_term():
    t = task(2, words=True, word_supervision_weight=3.0)
    losses, *_ = parts(t, FIRST[2])
    assert losses["L_total"].item() == pytest.approx(losses["L_contrastive"].item() + 3 * losses["L_word"].item(), rel=1e-5)
    present = t.words_of[FIRST[2]]
    weights = torch.log(7 / (present.sum(0) + 1))
    targets = F.normalize(present * weights, p=1, dim=1)
    with torch.no_grad():
        logits = t.model(tiny_clip.images(6), torch.arange(1))["words"]
    assert losses["L_word"].item() == pytest.approx(-(targets * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-4)
    assert t.frequency.captions == 6


def test_every_image_draws_a_sentence_of_its_class_anew():
    t = task(2)
    t.loader = SimpleNamespace(epoch=lambda epoch: [SimpleNamespace(views=torch.zeros(6, 3, 4, 4), indices=torch.arange(6))] * 8, steps=8)
    torch.manual_seed(0)
    drawn = [sentences for _, labels, sentences in t.batches(0) if torch.equal(t.model.class_of[sentences], labels)]
    assert len(drawn) == 8 and len(torch.stack(drawn)[:, 0].unique()) == 2


def test_an_epoch_begins_in_training_mode_whatever_an_evaluation_left():
    t = task()
    t.model.eval()
    t.prepare(0)
    assert all(module.training for module in t.model.modules())


def test_norms_and_the_temperature_have_no_weight_decay():
    groups = task().optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.01, 0.0}
    assert all((p.ndim > 1) == (group["weight_decay"] > 0) for group in groups for p in group["params"])
