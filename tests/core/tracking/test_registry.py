"""Names of registered models: whatever a folder is called, MLflow takes them and they stay apart."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_logged_model_name, _validate_model_name

from core.tracking import registry

FOLDERS = (
    "leaf v1.0",
    "50%",
    "leaf:v2",
    "Tom's leaves",
    'the "good" ones',
    "a\\b",
    "...",
    "  ",
    "x@champion",
    "c\nd",
    "作物",
    "\udcff",
    "l" * 255,
)


@given(st.text(max_size=300), st.sampled_from(("discovery", "longtail", "clip")))
@example("leaf v1.0", "longtail")
def test_a_data_set_of_any_name_gives_a_name_that_mlflow_takes(data, family):
    name = registry.model_name(family, data)
    _validate_model_name(name)
    _validate_logged_model_name(name)
    assert len(name) <= 200 and name.startswith(f"taxon-{family}") and not set(name) & set("@#?\\\n")
    assert registry.model_name(family, data) == name


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_any_name_has_a_model_of_its_own(folder):
    names = {other: registry.model_name("longtail", other) for other in FOLDERS}
    assert list(names.values()).count(names[folder]) == 1
    assert names[folder] != "taxon-longtail"


def test_composed_and_decomposed_letters_are_one_name():
    assert registry.model_name("clip", "caf\u00e9") == registry.model_name("clip", "cafe\u0301")


def test_usual_names_stay_as_they_are():
    assert registry.model_name("discovery", "cifar100/trees") == "taxon-discovery-cifar100-trees"
    assert registry.model_name("discovery", "digits") == "taxon-discovery-digits"
    assert registry.model_name("posts", "") == "taxon-posts"
