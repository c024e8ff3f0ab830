"""Options: typed, documented, refused in one line, and back to the words they came from."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import config
from core.config import Auto, machine, option
from core.errors import UserError
from core.stages.discovery import config as stages

STAGES = [value for name, value in vars(stages).items() if name.endswith("Config")]


@dataclass(frozen=True)
class Example:
    """An example."""

    lr: float | Auto = option("auto", "learning rate")
    epochs: int = option(3, "epochs")
    name: str = option("", "a name")
    mode: Literal["auto", "sgd", "adamw"] = option("auto", "optimiser")
    fast: bool = machine(True, "fast")
    share: float = option(0.5, "a share")


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        config.parse(Example, list(words), "example")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_words_become_typed_values():
    words = ["--lr=1e-4", "--epochs", "7", "--name=8", "--mode=sgd", "--fast=false", "--share", "-0.5"]
    assert config.parse(Example, words, "example") == Example(0.0001, 7, "8", "sgd", False, -0.5)
    assert config.parse(Example, [], "example") == Example()
    assert config.parse(Example, ["--lr=auto", "--name="], "example") == Example()


def test_an_unknown_option_names_the_nearest():
    assert refusal("--epoch=3") == "example has no option 'epoch'; did you mean 'epochs'?; see python -m entrypoints.example --help"
    assert "did you mean" not in refusal("--zzz", "3")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--lr=fast", "lr = 'fast' is not valid: it takes a number or auto"),
        ("--epochs=3.5", "epochs = '3.5' is not valid: it takes a whole number"),
        ("--epochs=", "epochs = '' is not valid: it takes a whole number"),
        ("--fast=perhaps", "fast = 'perhaps' is not valid: it takes true/false"),
        ("--mode=adam", "mode = 'adam' is not valid: it takes auto | sgd | adamw; did you mean 'adamw'?"),
    ],
)
def test_a_wrong_value_names_option_value_and_what_it_takes(word, says):
    assert refusal(word) == says
    assert refusal(*word.split("=", 1)) == says


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", ".nan", ".inf", "1e999", "NaN", "Infinity"])
@pytest.mark.parametrize("name", ["lr", "share"])
def test_numbers_are_finite(name, value):
    assert refusal(f"--{name}={value}").startswith(f"{name} = ")


@pytest.mark.parametrize("words", [["stray"], ["--epochs"], ["-x", "1"]])
def test_stray_words_and_missing_values_are_one_line(words):
    assert refusal(*words)


def test_the_first_wrong_option_is_named_beside_right_ones():
    assert refusal("--epochs=3", "--share=half", "--name=x").startswith("share = 'half'")


@settings(deadline=None, max_examples=40)
@given(
    st.builds(
        Example,
        lr=st.just("auto") | st.floats(allow_nan=False, allow_infinity=False),
        epochs=st.integers(),
        name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
        mode=st.sampled_from(["auto", "sgd", "adamw"]),
        fast=st.booleans(),
        share=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_words_of_a_configuration_parse_back_into_it(example):
    assert config.parse(Example, config.to_argv(example), "example") == example


def test_defaults_need_no_words():
    assert config.to_argv(Example()) == []
    assert config.to_argv(Example(fast=False, epochs=1)) == ["--epochs=1", "--fast=false"]


def test_results_only_leaves_out_what_cannot_change_a_result():
    assert config.canonical(Example(epochs=9))["epochs"] == 9
    assert set(config.canonical(Example())) - set(config.canonical(Example(), results_only=True)) == {"fast"}


@dataclass(frozen=True)
class Limited:
    """An example with limits."""

    lr: float | Auto = option("auto", "learning rate", above=0)
    decay: float = option(0.1, "decay", at_least=0)
    share: float = option(0.5, "a share", **config.SHARE)
    seed: int | Literal["none"] = option(1, "seed", **config.SEED)
    trials: int = option(1, "trials", at_least=1)
    beta: float = option(0.9, "beta", at_least=0, below=1, wrong=" must be at least 0 and below 1; 0.9 is usual")


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "good", "bad", "remedy"),
    [
        ("lr", (1e-9, 3, "auto"), (0, -1, NAN), "; it must be larger than 0"),
        ("decay", (0, 3), (-1, -1e-9, NAN), "; it must be 0 or more"),
        ("share", (0, 0.5, 1), (-0.1, 1.1, NAN), " is outside 0..1; give a share between 0 and 1"),
        ("seed", (0, 2**32 - 1, "none"), (2**32, 2**40), " is too large; use one below 4294967296"),
        ("trials", (1, 9), (0, -1), "; use 1 or more"),
        ("beta", (0.0, 0.999), (1.0, -0.1, NAN), " must be at least 0 and below 1; 0.9 is usual"),
    ],
)
def test_a_value_outside_its_limits_is_named_with_what_would_be_right(name, good, bad, remedy):
    for value in good:
        assert config.check_limits(Limited(**{name: value})) == Limited(**{name: value})
    for value in bad:
        with pytest.raises(UserError) as caught:
            config.check_limits(Limited(**{name: value}))
        assert str(caught.value) == f"{name} = {value}{remedy}"


def test_limits_come_before_finite_numbers_and_are_shown_in_help(capsys):
    with pytest.raises(UserError, match=r"^decay = inf is not a finite number"):
        config.check_limits(Limited(decay=math.inf))
    with pytest.raises(SystemExit):
        config.parse(Limited, ["--help"], "example")
    shown = " ".join(capsys.readouterr().out.split())
    assert "a share (at least 0 and at most 1)" in shown and "learning rate (above 0)" in shown


def test_help_shows_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        config.parse(Example, ["--help"], "example")
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "An example." in shown and all(f"--{f.name}" in shown for f in dataclasses.fields(Example))


def test_types_as_readers_see_them():
    types = {name: annotation for name, annotation, *_ in config.fields_of(Example)}
    said = ["a number or auto", "a whole number", "text", "auto | sgd | adamw", "true/false", "a number"]
    assert [config.describe(annotation) for annotation in types.values()] == said


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_every_option_of_every_stage_is_documented_and_parses(stage):
    assert stage.__doc__ and stage.__doc__.endswith(".")
    for name, annotation, default, doc in config.fields_of(stage):
        assert isinstance(doc, str) and len(doc) > 3 and "\n" not in doc, name
        assert config.describe(annotation)
        assert not isinstance(default, float) or math.isfinite(default)
        text = str(default).lower() if isinstance(default, bool) else str(default)
        assert getattr(config.parse(stage, [f"--{name}={text}"], "stage"), name) == default
    assert config.parse(stage, [], "stage") == stage()


@dataclass(frozen=True)
class Filed(Example, config.ConfigFile):
    """An example that takes a file."""


@pytest.fixture
def options(tmp_path):
    """Return a function that writes a file of options and returns the word that names it."""

    def write(value: object) -> str:
        (tmp_path / "options.json").write_text(value if isinstance(value, str) else json.dumps(value))
        return f"--config={tmp_path}/options.json"

    return write


def test_a_file_takes_the_place_of_defaults_and_explicit_options_win(options):
    word = options({"lr": 0.25, "fast": False, "name": "7", "mode": "sgd", "epochs": 9})
    expected = Filed(lr=0.25, fast=False, name="7", mode="sgd", epochs=9)
    assert config.parse(Filed, [word], "example") == expected
    assert config.parse(Filed, [word, "--lr=0.5", "--epochs", "8"], "example") == dataclasses.replace(expected, lr=0.5, epochs=8)


def test_an_option_given_at_its_default_overrides_the_file(options):
    word = options({"lr": 0.25, "epochs": 9, "name": "seven", "fast": False})
    expected = Filed(lr=0.25, epochs=3, name="", fast=True)
    assert config.parse(Filed, [word, "--epochs=3", "--name=", "--fast"], "example") == expected
    assert config.parse(Filed, ["--epochs", "3", "--name", "", "--fast", "true", word], "example") == expected


def test_what_mlproject_passes_empty_is_not_given(options):
    passed = ["--name:=", "--lr:=", "--epochs:="]
    assert config.parse(Filed, [options({"name": "seven"}), *passed], "example") == Filed(name="seven")
    assert config.parse(Filed, ["--config:=", *passed], "example") == config.parse(Filed, ["--config="], "example") == Filed()
    assert config.parse(Filed, ["--name:=:= a"], "example").name == ":= a"


def test_config_is_the_first_option_and_no_part_of_results():
    assert config.fields_of(Filed)[0][0] == "config"
    assert "config" not in config.canonical(Filed(), results_only=True)


def test_what_a_configuration_writes_it_reads(options):
    written = Filed(lr=1e-05, fast=False, share=-0.5)
    assert config.parse(Filed, [options({k: v for k, v in config.canonical(written).items() if k != "config"})], "example") == written


def test_the_file_of_the_words_is_found_under_both_names():
    assert config.origin(["--fast", "--config", "a.json"]) == config.origin(["--config=b", "--config-file", "a.json"]) == "a.json"
    assert config.origin(["--config_file:=a.json", "--name", "--config"]) == "a.json" and config.origin(["--config:="]) == ""


VALUES = (
    "a b",
    "it's",
    'a "b"',
    "a,b",
    "a=b=c",
    "$HOME `x`",
    "one\ntwo",
    "-1",
    "-x",
    "--x",
    "--epoch=3",
    "{a: 1}",
    "[1, 2]",
    "null",
    "木ü",
    "*",
)


@pytest.mark.parametrize("value", VALUES)
def test_a_value_arrives_as_it_is_however_the_words_are_made(value, options):
    taken = [config.parse(Filed, words, "example").name for words in ([f"--name={value}"], ["--name", value], [f"--name:={value}"])]
    assert [*taken, config.parse(Filed, [options({"name": value})], "example").name] == [value] * 4


def test_a_forgotten_value_is_not_the_next_options_name():
    assert "expected one argument" in refusal("--name", "--epochs", "3")
    assert config.parse(Example, ["--fast", "--epochs", "7"], "example") == Example(epochs=7)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"epoch": 3}, "example has no option 'epoch'; did you mean 'epochs'?"),
        ({"config": "other.json"}, "has no option 'config'"),
        ({"config_file": "other.json"}, "has no option 'config_file'"),
        ({"epochs": 3.5}, "epochs = '3.5' is not valid: it takes a whole number"),
        ({"epochs": [3]}, "epochs = [3] is no single value"),
        ({"epochs": {"a": None}}, "epochs = {'a': None} is no single value"),
        ({"share": math.nan}, "share = 'nan' is not valid: it takes a number"),
        ([1, 2], "holds neither an object of options nor a list of them"),
        ([{}, {"epochs": 4}], "holds 2 configurations; leave one in it"),
        ("{'lr': 1", "is no readable JSON, JSON5 or YAML file"),
        ("\xff\xfe", "is no readable JSON, JSON5 or YAML file"),
    ],
)
def test_a_file_that_cannot_be_names_itself_and_the_thing(options, value, part):
    with pytest.raises(UserError) as caught:
        config.parse(Filed, [options(value)], "example")
    said = str(caught.value)
    assert said.startswith("config = '") and part in said and "\n" not in said


def test_a_file_that_is_absent_or_a_class_that_takes_none(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        config.parse(Filed, [f"--config={tmp_path}/absent.json"], "example")
    with pytest.raises(UserError, match="is no readable JSON, JSON5 or YAML file"):
        config.parse(Filed, [f"--config={tmp_path}"], "example")
    assert "has no option 'config'" in refusal("--config=x.json")
