"""A network's tensors in a file: under any prefix, without the heads beside it, the teacher before the student."""

import torch

from core.models.weights_fit import first_mismatch, fit

EXPECTED = {"conv.weight": torch.zeros(2, 3), "norm.bias": torch.zeros(2)}


def named(prefix: str, value: float = 1.0) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": torch.full_like(tensor, value) for name, tensor in EXPECTED.items()}


def test_the_prefix_is_taken_off_and_heads_are_left_out():
    found = fit(named("module.backbone.") | {"module.head.weight": torch.zeros(5, 2)}, EXPECTED)
    assert found.prefix == "module.backbone." and found.mismatch == "" and found.given.keys() == EXPECTED.keys()
    assert found.left_out == ("module",)


def test_what_torch_puts_within_a_name_does_not_matter():
    found = fit({f"_orig_mod.{name}": tensor for name, tensor in EXPECTED.items()}, EXPECTED)
    assert found.mismatch == "" and found.prefix == ""


def test_of_two_equal_networks_the_teacher_is_taken():
    found = fit(named("student.", 1.0) | named("teacher.", 2.0), EXPECTED)
    assert found.prefix == "teacher." and found.given["norm.bias"].tolist() == [2.0, 2.0]


def test_the_first_difference_is_said(capsys):
    wrong = named("") | {"conv.weight": torch.zeros(4, 3)}
    assert "conv.weight" in first_mismatch(EXPECTED, wrong) and "(4, 3)" in first_mismatch(EXPECTED, wrong).replace("[", "(").replace(
        "]", ")"
    )
    fit(named("") | {"classifier.weight": torch.zeros(1)}, EXPECTED).say("w.safetensors")
    assert capsys.readouterr().err == "taxon: weights w.safetensors: classifier beside the network left out\n"
