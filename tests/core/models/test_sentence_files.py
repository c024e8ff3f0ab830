"""Sentence encoders by name: folders, the hub's cache, and what is refused in one line."""

from __future__ import annotations

import json
import shutil

import pytest

from core.errors import UserError
from core.models import sentence_files
from core.models import weights as weight_files
from tests.core.models import tiny_sentences

NAME = "someone/minilm"


@pytest.fixture
def folder(tmp_path):
    return tiny_sentences.write(tmp_path / "encoder")


def refusal(call) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_says_network_tokenizer_and_lengths(folder):
    found = sentence_files.read(f"hf:{folder}")
    assert found.config["model_type"] == "bert" and found.config["hidden_size"] == 32
    assert json.loads(found.tokenizer)["model"]["type"] == "WordPiece"
    assert (found.context_length, found.longest) == (24, 40)
    assert sentence_files.weights(f"hf:{folder}") == folder / "model.safetensors"


def test_lengths_that_say_nothing_leave_it_to_the_positions(folder):
    (folder / "sentence_bert_config.json").unlink()
    edit(folder / "tokenizer_config.json", model_max_length=10**30)
    found = sentence_files.read(f"hf:{folder}")
    assert (found.context_length, found.longest) == (40, 40)


def test_the_digest_is_of_the_contents_and_not_of_the_place(folder, tmp_path):
    before = sentence_files.digest_of(f"hf:{folder}")
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert sentence_files.digest_of(f"hf:{tmp_path / 'elsewhere'}") == before
    changed = {before}
    for file, values in (("config.json", {"layer_norm_eps": 1e-5}), ("sentence_bert_config.json", {"max_seq_length": 12})):
        edit(folder / file, **values)
        changed.add(sentence_files.digest_of(f"hf:{folder}"))
    edit(folder / "tokenizer.json", version="1.1")
    changed.add(sentence_files.digest_of(f"hf:{folder}"))
    tiny_sentences.write(folder, seed=1)
    changed.add(sentence_files.digest_of(f"hf:{folder}"))
    assert len(changed) == 5
    assert sentence_files.digest_of(f"hf:{tmp_path / 'gone'}") == f"hf:{tmp_path / 'gone'}"


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_without_one_of_the_three_files_is_refused(folder, file):
    (folder / file).unlink()
    said = refusal(lambda: (sentence_files.read(f"hf:{folder}"), sentence_files.weights(f"hf:{folder}")))
    assert said.startswith(f"text_encoder_name=hf:{folder}: '{folder}' has no {file}; give a folder with config.json, tokenizer.json and")


def test_a_pickle_alone_is_refused_with_the_command_that_converts_it(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    said = refusal(lambda: sentence_files.weights(f"hf:{folder}"))
    assert "has its weights as a pickle only (pytorch_model.bin), which can run code when read; convert it to model.safetensors" in said
    assert said.endswith(f"{folder / 'pytorch_model.bin'} {folder / 'model.safetensors'}")


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("config.json", {"auto_map": {"AutoModel": "own.Model"}}, "needs code of its own (config.json has auto_map), which is never run"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, "does not take the mean over its tokens (1_Pooling/config.json)"),
    ],
)
def test_code_of_its_own_and_another_pooling_are_refused(folder, file, values, words):
    edit(folder / file, **values)
    assert words in refusal(lambda: sentence_files.read(f"hf:{folder}"))


def test_what_is_no_json_is_named(folder):
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer.json' cannot be read" in refusal(lambda: sentence_files.read(f"hf:{folder}"))


def test_neither_folder_nor_repository_is_one_line(tmp_path):
    for name in ("hf:minilm", "hf:", f"hf:{tmp_path}/no/where"):
        assert refusal(lambda name=name: sentence_files.read(name)).startswith(
            f"text_encoder_name={name} is no folder here and no owner/name"
        )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the folder that stands for the hub's cache."""
    kept = tmp_path / "hub"
    monkeypatch.setattr(weight_files, "cached", lambda repository, names: next((kept / n for n in names if (kept / n).is_file()), None))
    return kept


def test_a_repository_in_the_cache_needs_no_network(hub, monkeypatch):
    tiny_sentences.write(hub)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: pytest.fail("the hub was asked"))
    assert sentence_files.read(f"hf:{NAME}").context_length == 24
    assert sentence_files.weights(f"hf:{NAME}") == hub / "model.safetensors"


def test_without_a_network_one_line_says_what_to_give(hub, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    said = refusal(lambda: sentence_files.read(f"hf:{NAME}"))
    assert said.startswith(f"text_encoder_name=hf:{NAME}: pretrained weights {NAME} cannot be downloaded (Name or service not known); ")
    assert said.endswith(f"give text_encoder_name=hf:<folder with config.json, tokenizer.json and model.safetensors of {NAME}>")


def test_offline_by_the_environment_is_one_line_too(hub, monkeypatch):
    from huggingface_hub.errors import OfflineModeIsEnabled

    def off(*_, **__):
        raise OfflineModeIsEnabled("off")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", off)
    assert "are not in the cache and HF_HUB_OFFLINE is set; give text_encoder_name=hf:<folder" in refusal(
        lambda: sentence_files.weights(f"hf:{NAME}")
    )
