"""What a tower's name means, and what is said of one that means nothing."""

import pytest

from core.errors import UserError
from core.models.clip_names import image_tower, text_tower


@pytest.mark.parametrize(
    "name, kind, model, tag, quick",
    [
        ("resnet18", "timm", "resnet18", "", False),
        ("resnet18.a1_in1k", "timm", "resnet18.a1_in1k", "a1_in1k", False),
        ("small_cnn", "timm", "small_cnn", "", False),
        ("clip:ViT-B/32", "open_clip", "ViT-B-32", "", False),
        ("ViT-B-32", "open_clip", "ViT-B-32", "", False),
        ("ViT-B-32-quickgelu", "open_clip", "ViT-B-32-quickgelu", "", True),
        ("openai/clip-vit-base-patch32", "open_clip", "ViT-B-32", "openai", True),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip", "ViT-B-32", "laion2b_s34b_b79k", False),
        ("convnext_base", "timm", "convnext_base", "", False),
        ("clip:convnext_base", "open_clip", "convnext_base", "", False),
        ("clip:small", "small", "clip:small-192x4", "", False),
        ("clip:small-64x2", "small", "clip:small-64x2", "", False),
    ],
)
def test_an_image_tower_is_understood(name, kind, model, tag, quick):
    tower = image_tower(name, "", 224)
    assert (tower.kind, tower.model, tower.tag, tower.quick_gelu) == (kind, model, tag, quick)


@pytest.mark.parametrize(
    "pretrained, model, tag", [("", "resnet18", ""), ("default", "resnet18", "default"), ("a1_in1k", "resnet18.a1_in1k", "a1_in1k")]
)
def test_a_timm_tag_is_part_of_its_name(pretrained, model, tag):
    tower = image_tower("resnet18", pretrained, 224)
    assert (tower.model, tower.tag) == (model, tag)


@pytest.mark.parametrize("tag, quick", [("openai", True), ("laion2b_s34b_b79k", False)])
def test_the_tag_decides_the_activation_that_its_weights_were_trained_with(tag, quick):
    assert text_tower("clip:ViT-B/32", tag, 0).quick_gelu is quick


def test_the_context_and_the_image_size_are_taken_over():
    assert text_tower("ViT-B-32", "", 0).config["context_length"] == 77
    assert text_tower("ViT-B-32", "", 20).config["context_length"] == 20
    assert text_tower("clip:small", "", 0).config["context_length"] == 64
    assert image_tower("ViT-B-32", "", 96).config["image_size"] == 96


@pytest.mark.parametrize("size, patch", [(224, 16), (64, 16), (32, 8), (28, 7), (16, 4), (8, 2)])
def test_the_small_tower_finds_its_patch(size, patch):
    assert image_tower("clip:small", "", size).config["patch_size"] == patch


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: image_tower("resnet81", "", 224), "image_encoder_name=resnet81 is unknown; .*did you mean 'resnet18'"),
        (lambda: image_tower("clip:ViT-B/23", "", 224), "image_encoder_name=clip:ViT-B/23 is unknown; .*did you mean 'ViT-B-32'"),
        (lambda: text_tower("resnet18", "", 0), "text_encoder_name=resnet18 is unknown"),
        (lambda: text_tower("ViT-B-32", "opnai", 0), "text_pretrained=opnai: ViT-B-32 has no weights .*did you mean 'openai'"),
        (lambda: image_tower("ViT-B-32", "opnai", 224), "image_pretrained=opnai"),
        (lambda: text_tower("ViT-B-16-SigLIP", "", 0), "needs a tokenizer of its own"),
        (lambda: text_tower("roberta-ViT-B-32", "", 0), "needs a tokenizer of its own"),
        (lambda: text_tower("clip:small", "openai", 0), "text_pretrained=openai: clip:small has no published weights"),
        (lambda: image_tower("clip:small", "openai", 32), "image_pretrained=openai: clip:small has no published weights"),
        (lambda: image_tower("clip:small-50x2", "", 32), "the width must be a multiple of 32"),
        (lambda: image_tower("clip:small-64x0", "", 32), "there must be a layer"),
        (lambda: image_tower("clip:small", "", 31), "img_size=31 cannot be divided"),
    ],
)
def test_what_means_nothing_is_named(make, said):
    with pytest.raises(UserError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
