"""Accuracies against brute force over every one-to-one assignment, and against cases worked out by hand."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.evaluation.gcd import VERSIONS, Accuracy, accuracy

points = st.lists(st.tuples(st.integers(-3, 1), st.integers(-2, 2)), min_size=1, max_size=14)
known_sets = st.sets(st.integers(-3, 2))
quick = settings(derandomize=True, deadline=None, max_examples=150)


def assignments(clusters: list[int], classes: list[int]) -> list[dict[int, int]]:
    """Return every one-to-one map class -> cluster that is as large as it can be."""
    if len(classes) <= len(clusters):
        return [dict(zip(classes, chosen, strict=True)) for chosen in permutations(clusters, len(classes))]
    return [dict(zip(chosen, clusters, strict=True)) for chosen in permutations(classes, len(clusters))]


def hits(pairs: list[tuple[int, int]], assignment: dict[int, int], wanted: set[int]) -> int:
    """Return how many (class, cluster) pairs of wanted classes the assignment gets right."""
    return sum(true in wanted and assignment.get(true) == cluster for true, cluster in pairs)


def best(pairs: list[tuple[int, int]], known: set[int]) -> dict[int, int]:
    """Return an assignment with the most right points, among those the most right ones of known classes, by trying all."""
    everything = {true for true, _ in pairs}
    candidates = assignments(sorted({cluster for _, cluster in pairs}), sorted(everything))
    return max(candidates, key=lambda assignment: (hits(pairs, assignment, everything), hits(pairs, assignment, known)))


def fraction(pairs: list[tuple[int, int]], assignment: dict[int, int], wanted: set[int]) -> float | None:
    """Return the fraction right of the points of wanted classes."""
    n = sum(true in wanted for true, _ in pairs)
    return hits(pairs, assignment, wanted) / n if n else None


def score(pairs: list[tuple[int, int]], known: set[int], version: str = "v2") -> Accuracy:
    return accuracy([true for true, _ in pairs], [cluster for _, cluster in pairs], known, version)


@quick
@given(points, known_sets)
def test_v2_is_the_best_of_all_assignments(pairs, known):
    classes = {true for true, _ in pairs}
    assignment = best(pairs, known)
    found = score(pairs, known)
    assert found.all == pytest.approx(fraction(pairs, assignment, classes))
    assert found.old == pytest.approx(fraction(pairs, assignment, classes & known))
    assert found.new == pytest.approx(fraction(pairs, assignment, classes - known))


@quick
@given(points, known_sets)
def test_v1_assigns_old_and_new_apart(pairs, known):
    classes = {true for true, _ in pairs}
    parts = {"old": classes & known, "new": classes - known}
    found = score(pairs, known, "v1")
    total = 0.0
    for name, wanted in parts.items():
        some = [pair for pair in pairs if pair[0] in wanted]
        expected = fraction(some, best(some, known), wanted) if some else None
        assert getattr(found, name) == pytest.approx(expected)
        total += (expected or 0.0) * len(some)
    assert found.all == pytest.approx(total / len(pairs))


@quick
@given(points, known_sets)
def test_v2b_is_the_class_mean_under_its_reported_assignment(pairs, known):
    classes = {true for true, _ in pairs}
    found = score(pairs, known, "v2b")
    assignment = {label: cluster for cluster, label in found.assignment.items()}
    for wanted, value in ((classes, found.all), (classes & known, found.old), (classes - known, found.new)):
        expected = [fraction(pairs, assignment, {label}) for label in wanted]
        assert value == pytest.approx(sum(expected) / len(expected) if expected else None)


@quick
@given(points, known_sets, st.permutations(range(-2, 3)), st.sampled_from(["v1", "v2"]))
def test_renaming_clusters_and_shuffling_points_changes_nothing(pairs, known, names, version):
    renamed = [(true, 10 * names[cluster + 2] - 7) for true, cluster in pairs][::-1]
    first, second = score(pairs, known, version), score(renamed, known, version)
    assert (first.all, first.old, first.new) == (second.all, second.old, second.new)


@quick
@given(points, known_sets)
def test_assignment_is_one_to_one_and_explains_v2(pairs, known):
    found = score(pairs, known)
    assert len(set(found.assignment.values())) == len(found.assignment)
    assert sum(found.assignment.get(cluster) == true for true, cluster in pairs) == round(found.all * len(pairs))


def test_a_case_worked_out_by_hand():
    # Known class 90 (4 points), novel class 5 (2 points): membership decides, not the size of the id.
    true = [90, 90, 90, 90, 5, 5]
    clusters = [7, 7, 7, -1, -1, 7]
    found = accuracy(true, clusters, {90})
    assert (found.all, found.old, found.new) == (4 / 6, 3 / 4, 1 / 2)
    assert found.assignment == {7: 90, -1: 5}
    balanced = accuracy(true, clusters, {90}, "v2b")
    assert (balanced.all, balanced.old, balanced.new) == ((3 / 4 + 1 / 2) / 2, 3 / 4, 1 / 2)


def test_v1_lets_one_cluster_serve_twice_and_v2_does_not():
    true, clusters = [0, 0, 1, 1], [4, 4, 4, 4]
    assert accuracy(true, clusters, {0}, "v1") == Accuracy(1.0, 1.0, 1.0, {4: 0}, "v1")
    assert accuracy(true, clusters, {0}) == Accuracy(0.5, 1.0, 0.0, {4: 0}, "v2")


def test_more_clusters_than_classes_leave_points_wrong():
    found = accuracy([0, 0, 0, 1], [0, 0, 1, 2], [0])
    assert (found.all, found.old, found.new) == (3 / 4, 2 / 3, 1.0)
    assert found.assignment == {0: 0, 2: 1}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_does_not_apply_is_none(version):
    assert accuracy([3, 3], [0, 0], {3}, version).new is None
    assert accuracy([3, 3], [0, 0], {4}, version).old is None
    empty = accuracy([], [], {3}, version)
    assert (empty.all, empty.old, empty.new, empty.assignment) == (None, None, None, {})


def test_unknown_version_names_the_nearest():
    with pytest.raises(UserError, match="unknown accuracy version 'v2c'; did you mean 'v2") as error:
        accuracy([0], [0], {0}, "v2c")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("true, clusters", [([0, 1], [0]), ([[0]], [[0]]), ([0.5], [0])])
def test_arrays_that_do_not_fit_are_refused(true, clusters):
    with pytest.raises(ValueError):
        accuracy(true, clusters, {0})
