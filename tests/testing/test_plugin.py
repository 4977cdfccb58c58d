"""The pytest plugin, in sessions of pytest of its own; and what importing purefn.testing needs."""

import importlib.metadata
import subprocess
import sys

import pytest
import torch
from hypothesis import settings

import purefn.functional as pf
from purefn import testing
from purefn.testing.plugin import Variant

pytest_plugins = ["pytester"]


def run(pytester, source, *arguments):
    pytester.makepyfile(f"import pytest\nimport torch\n{source}")
    return pytester.runpytest_inprocess("--no-header", "-p", "no:cacheprovider", *arguments)


def names(result):
    return [line.split("::")[1].split()[0] for line in result.outlines if "::" in line]


# --- variants ------------------------------------------------------------------------------------


def test_a_test_runs_once_for_each_variant(variant):
    def f(params, x, *, scale):
        testing.assert_shape(x, (3,))
        return {"y": params["w"] * x.sum() * scale, "x": x, "n": None}

    params, x = {"w": torch.tensor(2.0)}, torch.tensor([1.0, 2.0, 3.0])
    result = variant(f)(params, x, scale=0.5)
    testing.assert_trees_all_equal(result, {"y": torch.tensor(6.0), "x": x, "n": None})


@pytest.mark.variants("jit", "eager")
def test_variants_are_chosen_by_a_marker(variant):
    assert variant in (Variant("jit"), Variant("eager"))


def test_a_variant_is_what_its_name_says():
    def branching(x):
        return x if x > 0 else -x

    x = torch.tensor(1.0)
    assert Variant("eager")(branching) is branching
    assert isinstance(Variant("jit")(branching), pf.Jitted)
    assert Variant("jit")(branching)._settings.backend == "eager"
    assert Variant("compiled")(branching)._settings.backend == "inductor"
    with pytest.raises(pf.TraceError, match="needs the value"):
        Variant("jit")(branching)(x)
    with pytest.raises(RuntimeError, match="vmap"):
        Variant("vmap")(branching)(x)


def test_what_is_no_tensor_is_the_same_for_every_example_of_vmap():
    def f(x, axis, name, key):
        assert (axis, name) == (0, "sum")
        return getattr(x, name)(axis) + pf.random.uniform(key)

    key = pf.random.key(3)
    result = Variant("vmap")(f)(torch.ones(2, 3), 0, name="sum", key=key)
    testing.assert_trees_all_close(result, torch.full((3,), 2.0) + pf.random.uniform(key))


def test_static_arguments_are_for_jit(variant):
    def f(x, power):
        return x**2 if power == "square" else x

    assert variant(f, static_argnames="power")(torch.tensor(3.0), power="square") == 9


@pytest.mark.slow
@pytest.mark.variants("compiled")
def test_compiled_is_the_default_backend(variant):
    assert variant(torch.sin)(torch.zeros(2)).tolist() == [0, 0]


def test_variants_are_repeated_and_chosen(pytester):
    source = """
def test_all(variant): ...

@pytest.mark.variants("vmap", "compiled")
def test_two(variant): ...

@pytest.mark.variants("jit")
class TestClass:
    def test_inner(self, variant): ...

@pytest.mark.parametrize("variant", [1, 2])
def test_own(variant):
    assert variant in (1, 2)
"""
    result = run(pytester, source, "--collect-only", "-q", "--strict-markers")
    assert names(result) == [
        *("test_all[eager]", "test_all[jit]", "test_all[vmap]"),
        *("test_two[vmap]", "test_two[compiled]"),
        "TestClass",
        *("test_own[1]", "test_own[2]"),
    ]
    result.stdout.fnmatch_lines(["*::TestClass::test_inner?jit?"])


def test_a_fixture_of_the_project_goes_before(pytester):
    source = """
@pytest.fixture(params=["mine"])
def variant(request):
    return request.param

@pytest.fixture
def device():
    return "mine"

def test_all(variant, device):
    assert variant == device == "mine"
"""
    run(pytester, source).assert_outcomes(passed=1)


@pytest.mark.parametrize("marker", ["'eager', 'gpu'", ""])
def test_an_unknown_variant_is_an_error_of_usage(pytester, marker):
    result = run(pytester, f"@pytest.mark.variants({marker})\ndef test_all(variant): ...")
    result.stdout.fnmatch_lines(["*takes names of eager, jit, vmap, compiled; got *"])
    assert result.ret != 0


# --- devices and keys ----------------------------------------------------------------------------


def test_the_device_is_one_that_there_is(device):
    assert torch.zeros(1, device=device).device.type == device.type


@pytest.mark.parametrize(("there_is", "devices"), [(False, ["cpu"]), (True, ["cpu", "cuda"])])
def test_cuda_is_among_the_devices_where_there_is_one(pytester, monkeypatch, there_is, devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there_is)
    result = run(pytester, "def test_it(device): ...", "--collect-only", "-q")
    assert names(result) == [f"test_it[{each}]" for each in devices]


KEYS = """
seen = []

@pytest.mark.parametrize("n", [1, 2])
def test_key(key, n):
    print("the key", key.tolist())
    assert n == 1
"""


def test_a_key_is_the_tests_own_and_is_printed_when_it_fails(pytester):
    first = run(pytester, KEYS, "-rP")
    first.assert_outcomes(passed=1, failed=1)
    printed = [line for line in first.outlines if line.startswith("the key")]
    assert len(set(printed)) == 2
    again = run(pytester, KEYS, "-rP")
    assert [line for line in again.outlines if line.startswith("the key")] == printed
    (shown,) = [line for line in first.outlines if line.startswith("key = purefn")]
    seed = int(shown.removeprefix("key = purefn.functional.random.key(").rstrip(")"))
    assert f"the key {pf.random.key(seed).tolist()}" in printed


# --- what failures say ---------------------------------------------------------------------------


def test_a_comparison_of_trees_that_fails_names_the_leaves(pytester):
    source = """
def test_it():
    left = {"w": torch.tensor(1.0), "b": torch.tensor(2.0)}
    assert left == {"w": torch.tensor(1.5), "b": torch.tensor(2.0)}

def test_structures():
    assert {"w": torch.ones(2)} == {"v": torch.ones(2)}
"""
    result = run(pytester, source)
    result.stdout.fnmatch_lines(
        [
            "E*assert trees differ",
            "E*1 of 2 leaves differ.",
            "E*tree?'w'?: 1 of 1 elements of float32 of shape () differ",
            "E*largest absolute difference 0.5: 1.0 != 1.5",
            "E*the structures differ: only the first has tree?'w'?; only the second has tree?'v'?.",
        ]
    )


def test_a_comparison_of_trees_that_torch_refuses_is_explained(pytester):
    source = """
def test_it():
    left, right = {"w": torch.ones(2)}, {"w": torch.tensor([1.0, 3.0])}
    assert left == right

def test_inline():
    assert {"w": torch.ones(2)} == {"w": torch.zeros(2)}

def test_another():
    if torch.ones(2): pass
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "*purefn comparison*",
            "*use purefn.testing.assert_trees_all_equal or assert_trees_all_close.",
            "1 of 1 leaves differ.",
            "*tree?'w'?: 1 of 2 elements of float32 of shape (2,) differ",
            "*largest absolute difference 2 at ?1?: 1.0 != 3.0",
        ]
    )


def test_other_comparisons_are_pytests(pytester):
    source = """
def test_it():
    assert {"w": 1} == {"w": 2}

def test_strings():
    assert "a" == "b"
"""
    result = run(pytester, source)
    assert "trees differ" not in result.stdout.str()
    result.stdout.fnmatch_lines(["*Differing items:", "*'w': 1*'w': 2*"])


# --- what it costs, and needs --------------------------------------------------------------------


def python(script, folder):
    """Run a script in a folder where no metadata of an earlier build lies."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_pytest_loads_the_plugin_by_its_entry_point():
    points = {
        (entry.group, entry.value)
        for distribution in importlib.metadata.distributions(name="purefn")
        for entry in distribution.entry_points
    }
    assert points == {
        ("pytest11", "purefn.testing.plugin"),
        ("hypothesis", "purefn.testing.profiles:register"),
    }


def test_a_run_of_pytest_that_needs_no_torch_imports_none(pytester):
    source = """
import sys

def test_it():
    assert "purefn.testing.plugin" in sys.modules
    assert not {"torch", "numpy", "optree", "hypothesis"} & set(sys.modules)
"""
    pytester.makepyfile(f"import pytest\n{source}")
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_without_hypothesis_the_plugin_loads_and_the_rest_names_the_extra(tmp_path):
    script = """
import sys
sys.modules["hypothesis"] = None
import purefn.testing.plugin
from purefn import testing
for ask in (lambda: testing.check_optimizer, lambda: testing.strategies):
    try:
        ask()
    except ImportError as error:
        assert str(error).endswith("needs hypothesis: pip install 'purefn[testing]'."), error
    else:
        raise SystemExit("no error")
"""
    result = python(script, tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_package_knows_its_names_and_no_others():
    assert testing.check_optimizer is testing.verification.check_optimizer
    assert {"assert_shape", "gradient_sequences", "check_optimizer"} <= set(testing.__all__)
    assert len(set(testing.__all__)) == len(testing.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = testing.nothing
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from purefn.testing import nothing  # noqa: F401


# --- profiles ------------------------------------------------------------------------------------


def test_hypothesis_knows_the_profiles_once_it_is_imported(tmp_path):
    script = """
from hypothesis import settings
found = {name: settings.get_profile(name) for name in ("dev", "ci", "thorough")}
assert [each.max_examples for each in found.values()] == [25, 100, 1000]
assert all(each.deadline is None for each in found.values())
assert found["ci"].derandomize and not found["dev"].derandomize
"""
    result = python(script, tmp_path)
    assert result.returncode == 0, result.stderr


def test_pytest_takes_a_profile_by_name(pytester):
    source = """
from hypothesis import given, settings, strategies as st

@given(st.integers())
def test_it(n):
    assert settings().max_examples == 1000
"""
    before = settings.get_current_profile_name()
    try:
        run(pytester, source, "--hypothesis-profile=thorough").assert_outcomes(passed=1)
    finally:
        settings.load_profile(before)
