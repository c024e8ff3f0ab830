"""The stages that belong to no family: promotion, tests, benchmarks."""

from __future__ import annotations

from core.stages.commands import BenchmarkConfig, TestConfig
from core.stages.promote_config import PromoteConfig
from core.stages.stage import Stage

BENCHMARK = Stage("benchmark", BenchmarkConfig, "core.stages.commands:benchmark", headline=("only", "shared"))
PROMOTE = Stage(
    "promote",
    PromoteConfig,
    "core.stages.promote:run",
    headline=("name", "candidate", "metric", "part", "rule", "min_gain", "data_root", "dry_run"),
)
TEST = Stage("test", TestConfig, "core.stages.commands:test", headline=("select",))

STAGES = (
    BENCHMARK,
    PROMOTE,
    TEST,
)
