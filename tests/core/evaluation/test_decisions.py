"""What a person's clusters.json comes to, and each way in which it can be wrong, in one line."""

from __future__ import annotations

import json

import pytest

from core.errors import UserError
from core.evaluation import decisions
from core.evaluation.answer_files import FORMAT
from core.evaluation.decisions import Decided

NAMES = ("bar", "cross", "novel 1", "novel 2", "novel 3")  # the first two are labelled classes


def entries(**changed):
    """Return the entries of five clusters as they were found, with what is `changed` of c0 to c4."""
    found = [
        {"cluster": i, "name": name, "known": i < 2, "size": 9, "exemplars": ["a"], "merge": None, "split": False, "drop": False}
        for i, name in enumerate(NAMES)
    ]
    return [entry | changed.get(f"c{i}", {}) for i, entry in enumerate(found)]


def text(clusters, **top) -> str:
    return json.dumps({"format": FORMAT, "run": "r1", "digest": "d1", "clusters": clusters} | top)


def decide(clusters=None, classes=("bar", "cross"), top=None, **changed) -> Decided:
    saved = decisions.parse(text(entries(**changed) if clusters is None else clusters, **top or {}), "c.json")
    return decisions.decide(saved, decisions.parse(text(entries()), "own"), "c.json", classes)


def labels(decided: Decided) -> list:
    """Return the class of each cluster, a pair of them where it is split."""
    pairs = [(decided.labels[i, 0], decided.labels[i, 1]) for i in range(5)]
    return [first if first == second else (first, second) for first, second in pairs]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ["bar", "cross", "", "", ""]),
        ({"c2": {"name": "ring"}}, ["bar", "cross", "ring", "", ""]),
        ({"c2": {"name": " big \n ring "}}, ["bar", "cross", "big ring", "", ""]),
        ({"c2": {"name": "big\t\u00a0 ring"}}, ["bar", "cross", "big ring", "", ""]),
        ({"c2": {"name": "cafe\u0301"}}, ["bar", "cross", "caf\u00e9", "", ""]),
        ({"c2": {"name": ""}}, ["bar", "cross", "", "", ""]),
        ({"c2": {"name": "ring"}, "c3": {"merge": 2}}, ["bar", "cross", "ring", "ring", ""]),
        ({"c2": {"name": "ring", "merge": 3}}, ["bar", "cross", "ring", "ring", ""]),  # the name comes along
        ({"c2": {"name": "ring", "merge": 3}, "c3": {"merge": 4}}, ["bar", "cross", "ring", "ring", "ring"]),
        ({"c2": {"merge": 3}}, ["bar", "cross", "", "", ""]),
        ({"c2": {"merge": 0}}, ["bar", "cross", "bar", "", ""]),
        ({"c2": {"split": True, "names": ["x", "y"]}}, ["bar", "cross", ("x", "y"), "", ""]),
        ({"c2": {"split": True, "names": ["", "y"]}}, ["bar", "cross", ("", "y"), "", ""]),
        ({"c2": {"split": True}}, ["bar", "cross", "", "", ""]),
        ({"c0": {"drop": True}, "c2": {"name": "ring", "drop": True}}, ["", "cross", "", "", ""]),
        ({"c0": {"split": True, "names": ["bar", "rod"]}}, [("bar", "rod"), "cross", "", "", ""]),
    ],
)
def test_names_merges_splits_and_drops(changed, expected):
    decided = decide(**changed)
    assert labels(decided) == expected and not decided.renamed and not decided.notices


def test_a_labelled_class_that_is_renamed_takes_its_labels_along():
    decided = decide(c0={"name": "rod"}, c2={"merge": 0})
    assert labels(decided) == ["rod", "cross", "rod", "", ""] and decided.renamed == {"bar": "rod"}
    assert decided.notices == ("the labelled class 'bar' is called 'rod' from now on",)
    assert decide(c1={"merge": 0}).renamed == {"cross": "bar"} and decide(c0={"merge": 2}).renamed == {}


@pytest.mark.parametrize("changed", [{}, {"c0": {"drop": True}}, {"c0": {"split": True, "names": ["rod", ""]}}])
def test_a_novel_cluster_with_a_labelled_class_s_name_joins_it_and_that_is_said(changed):
    decided = decide(c2={"name": "bar"}, c3={"name": "bar"}, **changed)
    assert labels(decided)[2:] == ["bar", "bar", ""]
    assert [line for line in decided.notices if "merged into it" in line] == list(decided.notices) and len(decided.notices) == 2


def test_labelled_classes_may_be_called_alike_and_change_their_letter_case():
    assert labels(decide(classes=("bar", "cross", "Bar", "CROSS")))[:2] == ["bar", "cross"]
    assert decide(c0={"name": "Bar"}).renamed == {"bar": "Bar"}
    assert labels(decide(classes=("bar", "cross", "Dot"), c2={"name": "Dot"}))[2] == "Dot"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"c2": {"name": "novel 77"}}, "'novel 77' is a number and no name: images of cluster 2 stay unlabelled"),
        (
            {f"c{i}": {"name": f"novel {i + 9}"} for i in (2, 3, 4)},
            "'novel 11' is a number and no name: images of cluster 2, 3, 4 stay unlabelled",
        ),
        ({"c3": {"split": True, "names": ["x", "novel 5"]}}, "'novel 5' is a number and no name: images of cluster 3 stay unlabelled"),
        ({"c2": {"merge": 3}, "c3": {"name": "novel 1"}}, "'novel 1' is a number and no name: images of cluster 3 stay unlabelled"),
    ],
)
def test_a_number_that_a_person_wrote_as_a_name_is_said_in_one_notice(changed, says):
    assert decide(**changed).notices == (says,)


def test_a_number_that_leaves_nothing_unlabelled_is_not_said():
    assert decide(c2={"name": "novel 7", "merge": 3}, c3={"name": "elm"}, c4={"name": "novel 9", "drop": True}).notices == ()


def test_a_class_without_a_cluster_is_a_labelled_class_too():
    assert decide(classes=("bar", "cross", "dot"), c2={"name": "dot"}).notices == (
        "cluster 2 has the name of the labelled class 'dot': it is merged into it",
    )


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"c2": {"name": "ring"}, "c3": {"name": " ring"}}, r"uses the name 'ring' twice \(cluster 2 and 3\): merge them, or name them"),
        ({"c2": {"name": "r"}, "c3": {"split": True, "names": ["r", "q"]}}, "uses the name 'r' twice"),
        ({"c3": {"split": True, "names": ["r", "r"]}}, "uses the name 'r' twice"),
        ({"c0": {"name": "cross"}}, r"uses the name 'cross' twice \(cluster 0 and 1\)"),
        ({"c2": {"merge": 3}, "c3": {"merge": 2}}, r"in a circle \(2 into 3 into 2\)"),
        ({"c2": {"merge": 2}}, r"in a circle \(2 into 2\)"),
        ({"c2": {"merge": 3}, "c3": {"drop": True}}, "into cluster 3, which is dropped"),
        ({"c2": {"merge": 3}, "c3": {"split": True}}, "into cluster 3, which is split"),
        ({"c2": {"merge": 9}}, "into cluster 9, which there is not"),
        ({"c2": {"merge": -1}}, "into cluster -1, which there is not"),
        ({"c2": {"merge": 3, "drop": True}}, "cluster 2 is to be merged, split and dropped at once"),
        ({"c2": {"names": ["x", "y"]}}, "cluster 2 has names of halves, but split is false"),
        ({"c2": {"split": True, "names": ["x"]}}, "are not the names of its two halves"),
        ({"c2": {"name": "x", "merge": 4}, "c3": {"name": "y", "merge": 4}}, "merges 'x' and 'y' into cluster 4, which has no name"),
        ({"c2": {"merge": "3"}}, "cluster 2: merge = '3' is not valid"),
        ({"c2": {"merge": True}}, "cluster 2: merge = True is not valid"),
        ({"c2": {"split": 1}}, "cluster 2: split = 1 is not valid"),
        ({"c2": {"name": None}}, "cluster 2: name = None is not valid"),
        ({"c2": {"cluster": "2"}}, "cluster '2': cluster = '2' is not valid"),
        ({"c2": {"nmae": "x"}}, r"has a key 'nmae' that is not known; did you mean 'name'\?"),
        ({"c2": {"name": "nan"}}, "'nan' means 'no value' in a table"),
        ({"c2": {"name": "a\x00b"}}, "holds characters that are no text"),
        ({"c2": {"name": "a\ud800"}}, "holds characters that are no text"),
        ({"c2": {"cluster": 3}}, "has cluster 3 twice"),
        ({"c2": {"cluster": 7}}, "has a cluster 7 that run r1 has not found"),
        ({"top": {"digest": "d2"}}, "belongs to another answer than that of run r1: save it"),
        ({"top": {"digest": "d2", "run": "r2"}}, r"belongs to another answer than that of run r1 \(it names run 'r2'\)"),
        ({"top": {"format": "taxon-clusters/2"}}, "has the format 'taxon-clusters/2', and this version reads 'taxon-clusters/1'"),
        ({"top": {"extra": 1}}, "has a key 'extra' that is not known"),
        ({"top": {"run": 3}}, "run = 3 is no id"),
        ({"top": {"run": "r1\n"}}, r"run = 'r1\\n' is no id: save it again"),
        ({"top": {"run": "r" * 300}}, r"run = 'r{59}\.\.\. is no id"),
        ({"top": {"digest": "d2", "run": "r" * 200}}, r"\(it names run 'r{59}\.\.\.\)"),
        ({"c2": {"line 1\nline 2" * 9000: 1}}, r"has a key 'line 1\\nline 2line 1.{0,50}\.\.\. that is not known"),
        ({"c2": {"name": "\u200b \ufeff"}}, r"of the name '\\u200b \\ufeff' nothing can be seen"),
        ({"c2": {"merge": 10**3000}}, r"into cluster 10{59}\.\.\., which there is not"),
        (
            {"c2": {"name": "Bar"}},
            "calls cluster 2 'Bar', and there is the labelled class 'bar': merge it into that one, or write the name",
        ),
        ({"c0": {"name": "Cross"}}, "calls cluster 0 'Cross', and there is the labelled class 'cross'"),
        ({"c2": {"split": True, "names": ["BAR", "x"]}}, "calls cluster 2 'BAR', and there is the labelled class 'bar'"),
        ({"c2": {"name": "elm"}, "c3": {"name": "Elm"}}, r"one name in two spellings, 'elm' \(cluster 2\) and 'Elm' \(cluster 3\): merge"),
        ({"c2": {"name": "elm"}, "c3": {"name": " \u200b elm \ufeff"}}, "uses the name 'elm' twice"),
        ({"c2": {"name": "Stra\u00dfe"}, "c3": {"name": "STRASSE"}}, "one name in two spellings, 'Stra\u00dfe'"),
        ({"c0": {"name": "Rod"}, "c2": {"name": "rod"}}, r"two spellings, 'Rod' \(cluster 0\) and 'rod' \(cluster 2\)"),
        ({"clusters": [3]}, "clusters is no list of clusters"),
        ({"clusters": entries()[:4]}, "lacks cluster 4: put its entry back"),
        ({"clusters": [{"cluster": 0}]}, "cluster 0 lacks 'name'"),
    ],
)
def test_what_cannot_be_carried_out_is_said_in_one_line(changed, says):
    with pytest.raises(UserError, match=says) as error:
        decide(**changed)
    assert "\n" not in str(error.value) and str(error.value).startswith("c.json") and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "damaged or no JSON"),
        (text(entries())[:-20], "damaged or no JSON"),
        ("[" * 100_000, "damaged or no JSON"),
        ('{"format": "a", "format": "b"}', "the key 'format' is there twice"),
        ("[]", "has the format None"),
        ("{}", "has the format None"),
        (json.dumps({"format": FORMAT, "digest": "d", "clusters": []}), "lacks 'run'"),
    ],
)
def test_a_damaged_file_is_said_in_one_line(content, says):
    with pytest.raises(UserError, match=says) as error:
        decisions.parse(content, "c.json")
    assert "\n" not in str(error.value)
