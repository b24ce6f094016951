"""Several devices: what `watch` sees of a program that runs on a mesh is what one device sees.

JAX fixes the number of CPU devices when it starts, so the cases run in one process of their own.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # a process with compilations of its own

CASES = (
    "examples split", "examples split, unchecked", "kernels split", "both split",
    "gathered kernels", "loops and branches", "cadence", "jit with shardings",
    "layers of a scan split", "gradient",
)  # fmt: skip
HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def answers():
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    settings = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [sys.executable, str(HERE / "on_four_devices.py")],
        capture_output=True, text=True, env=os.environ | settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_on_four_devices_every_unit_has_the_statistics_that_it_has_on_one(answers, case):
    answer = answers[case]
    assert answer["differing"] == [] and answer["same outputs"]
    assert answer["names"] == answer["names of one"] and answer["links"] == answer["links of one"]


def test_units_that_no_order_fits_are_numbered_by_shard_and_said_to_be(answers):
    answer = answers["layers of a scan split"]
    assert "numbered shard by shard" in answer["notes"]
