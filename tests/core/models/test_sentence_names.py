"""Names of sentence encoders: which are one, and which can be neither a folder here nor a repository."""

import pytest

from core.errors import UserError
from core.models import sentence_names


@pytest.mark.parametrize(("name", "named"), [("hf:someone/minilm", True), ("hf:", True), ("clip:small-64x2", False), ("", False)])
def test_the_prefix_names_a_sentence_encoder(name, named):
    assert sentence_names.is_named(name) == named


def test_a_folder_and_a_repository_may_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    for name in ("hf:minilm", f"hf:{tmp_path}/minilm", "hf:./minilm", "hf:sentence-transformers/all-MiniLM-L6-v2"):
        sentence_names.require_folder(name)


@pytest.mark.parametrize("given", ["", "minilm", "/no/where", "no/where/at-all", "~/minilm", "./minilm", "../minilm", "owner/"])
def test_what_can_be_neither_is_refused(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        sentence_names.require_folder(f"hf:{given}")
    assert str(caught.value) == (
        f"text_encoder_name=hf:{given} is no folder here and no owner/name of the hub; "
        "give hf:<folder with config.json, tokenizer.json and model.safetensors>"
    )
