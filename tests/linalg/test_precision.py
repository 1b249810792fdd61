"""The levels of precision have one list of names, which costs no import of torch."""

import subprocess
import sys

import pytest

from svc_dist.errors import RecipeError
from svc_dist.linalg.precision import Precision


def test_a_name_that_is_no_level_is_refused_with_the_levels():
    assert Precision.of("mixed") is Precision.MIXED
    with pytest.raises(RecipeError, match="'flot64', but must be one of mixed, fast, float64"):
        Precision.of("flot64")


def test_the_names_cost_no_import_of_torch():
    code = "import sys, svc_dist.linalg.precision; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
