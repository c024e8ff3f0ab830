"""A file of options: its kinds, what it may hold, what is refused by name; how a list of configurations meets the command line."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace

import pytest

from core import config, config_file
from core.config import machine, option
from core.errors import UserError


@dataclass(frozen=True)
class Listed(config.ConfigFile):
    """An example that takes a list of configurations."""

    epochs: int = option(50, "epochs")
    rate: float = option(0.1, "rate")
    lock: bool = option(False, "lock")
    patience: int = option(0, "patience")
    name: str = option("", "a name")
    multi_config: bool = machine(False, "config holds a list")


JSON5 = """[
  // the first
  {"epochs": 10, rate: 1e-4, /* more */ 'lock': true, "patience": null,},
  {"name": "b"},
]"""
JSON = '[{"epochs": 10, "rate": 1e-4, "lock": true}, {"name": "b"}]'
YAML = """
# the first
- epochs: 10
  rate: 1e-4
  lock: true
  patience: null
- {name: b}
"""


def read(path, text: str, *words: str) -> list[Listed]:
    path.write_text(text)
    given = config.parse(Listed, [f"--config={path}", "--multi_config=true", *words], "example")
    assert given.multi_config and given.config == str(path)
    return config.configurations_of(pickle.loads(pickle.dumps(replace(given))), "example")


@pytest.mark.parametrize(
    "name, text", [("c.json", JSON), ("c.json", JSON5), ("c.json5", JSON5), ("c", JSON5), ("c.yaml", YAML), ("c.YML", YAML)]
)
def test_comments_are_read_and_what_is_not_said_stays_the_default(tmp_path, name, text):
    assert read(tmp_path / name, text) == [Listed(epochs=10, rate=1e-4, lock=True), Listed(name="b")]


@pytest.mark.parametrize("name, text", [("c.json", '{"epochs": 7}'), ("c.json5", "[{epochs: 7}]"), ("c.yaml", "epochs: 7")])
def test_one_configuration_needs_no_list(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert config.parse(Listed, [f"--config={tmp_path / name}"], "example") == Listed(epochs=7)
    assert read(tmp_path / name, text) == [Listed(epochs=7)]


def test_what_a_check_says_is_of_one_configuration(tmp_path):
    def check(one):
        if one.epochs > 50:
            raise UserError("epochs = 60 is too many")

    (tmp_path / "c.json").write_text("[{}, {epochs: 60}]")
    with pytest.raises(UserError, match=r"^config = '.*c.json', configuration 2: epochs = 60 is too many$"):
        config.configurations_of(Listed(config=str(tmp_path / "c.json")), "example", check)


def test_the_command_that_repeats_a_run_names_what_overrides_the_file(tmp_path):
    given = config.parse(Listed, [f"--config={tmp_path}/c.json", "--multi_config=true", "--epochs=50", "--rate=0.5"], "example")
    assert config.told(given) == {"config": f"{tmp_path}/c.json", "multi_config": True, "epochs": 50, "rate": 0.5}


def test_what_the_command_line_gives_overrides_every_configuration_defaults_included(tmp_path):
    text = '[{"epochs": 10, "lock": true, "name": "a"}, {"epochs": 20}]'
    assert read(tmp_path / "c.json", text, "--epochs", "50", "--name=", "--lock=false") == [Listed(), Listed()]
    assert read(tmp_path / "c.json", text, "--epochs=3", "--name:=") == [Listed(epochs=3, lock=True, name="a"), Listed(epochs=3)]


@pytest.mark.parametrize(
    "text, parts",
    [
        ('[{"epoch": 3}]', ("configuration 1", "no option 'epoch'", "did you mean 'epochs'?")),
        ('[{"epochs": 3}, {"nam": 0}]', ("configuration 2", "no option 'nam'", "did you mean 'name'?")),
        ('[{"config_file": "x"}]', ("no option 'config_file'",)),
        ('[{"multi_config": true}]', ("no option 'multi_config'",)),
        ('[{"epochs": "soon"}]', ("configuration 1", "epochs = 'soon'")),
        ('[{"epochs": [1]}]', ("epochs = [1] is no single value",)),
        ('[{"epochs": 1, "epochs": 2}]', ("no readable JSON, JSON5",)),
        ("[{", ("no readable JSON, JSON5 or YAML",)),
        ("[]", ("neither an object of options nor a list",)),
        ("[1]", ("neither an object of options nor a list",)),
        (b'{"name": "Gr\xfc\xdfe, K\xf6ln"}', ("no readable JSON, JSON5 or YAML", "is not UTF-8")),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path, text, parts):
    (tmp_path / "c.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(tmp_path / "c.json")
    assert said.startswith("config = '") and all(part in said for part in parts), said


@pytest.mark.parametrize(
    "text, part",
    [
        ("a: [1", "no readable JSON, JSON5 or YAML"),
        ("{epochs: 1, epochs: 2}", "the key 'epochs' is there twice"),
        ("epochs: 2026-11-27", "is no single value"),
        ("{1: 2}", "no option '1'"),
        ("!!python/object:os.system x", "no readable JSON, JSON5 or YAML"),
        ("", "neither an object of options nor a list"),
    ],
)
def test_a_yaml_file_that_cannot_be_is_refused(tmp_path, text, part):
    (tmp_path / "c.yaml").write_text(text)
    assert part in refused(tmp_path / "c.yaml")


def test_a_file_that_is_not_there_and_a_list_that_was_not_asked_for(tmp_path):
    assert "does not exist" in refused(tmp_path / "none.json")
    (tmp_path / "c.json").write_text("[{}, {}]")
    with pytest.raises(UserError, match="holds 2 configurations; set multi_config = true, or leave one in it"):
        config.parse(Listed, [f"--config={tmp_path / 'c.json'}"], "example")


def test_words_of_a_configuration_are_in_present_names():
    assert config_file.words({"gpu-id": 0, "use-amp": True}, {"gpu", "use_amp"}, "example") == ["--gpu=0", "--use_amp=true"]


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        config.configurations_of(Listed(config=str(path), multi_config=True), "example")
    assert "\n" not in str(caught.value)
    return str(caught.value)
