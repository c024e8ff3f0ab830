"""Devices by name, number formats by device, and one line for a device that is not there."""

from __future__ import annotations

import pytest
import torch

from core.errors import UserError
from core.training import precision

CPU = torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_devices_of_a_machine_with_two_gpus(two_gpus, monkeypatch):
    assert precision.pick_device("auto") == torch.device("cuda", 0)
    assert precision.pick_device("1") == torch.device("cuda", 1)
    assert precision.pick_device("cpu") == CPU
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert precision.pick_device("auto") == torch.device("cuda", 1)


def test_auto_takes_mps_then_cpu(no_gpu, monkeypatch):
    assert precision.pick_device("auto") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert precision.pick_device("auto") == precision.pick_device("mps") == torch.device("mps")


@pytest.mark.parametrize("gpu", ["2", "-1", "cuda", "mps", "", "1.0", "²"])
def test_a_device_that_is_not_there_is_one_line(two_gpus, gpu):
    with pytest.raises(UserError) as caught:
        precision.pick_device(gpu)
    line = str(caught.value)
    assert line.startswith(f"gpu = '{gpu}' is not on this machine (2 CUDA devices)") and "\n" not in line


@pytest.mark.parametrize("gpu", ["0", "mps"])
def test_a_machine_without_gpu_says_so(no_gpu, gpu):
    with pytest.raises(UserError, match="0 CUDA devices"):
        precision.pick_device(gpu)


@pytest.mark.parametrize("amx", [True, False])
def test_avx512_bf16_alone_is_slower_than_fp32(monkeypatch, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert precision.has_bf16(CPU) is amx


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_bf16_only_where_it_is_fast(monkeypatch, fast):
    monkeypatch.setattr(precision, "has_bf16", lambda device: fast)
    assert precision.resolve_precision("auto", CPU) == ("bf16" if fast else "fp32")
    assert precision.resolve_precision("fp32", CPU) == "fp32"
    assert precision.resolve_precision("bf16", CPU) == "bf16"


def test_every_device_kind_can_be_asked():
    assert precision.has_bf16(CPU) in (True, False)
    assert precision.has_bf16(torch.device("mps")) is False


@pytest.mark.parametrize(("number_format", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_autocast_sets_the_format_of_products(number_format, dtype):
    with precision.autocast(CPU, number_format):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
