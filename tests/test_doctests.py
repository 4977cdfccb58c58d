"""Every example in a docstring runs, and every public function has one."""

import doctest
import importlib
import inspect
import pkgutil
import sys

import pytest

PACKAGES = ["purefn.functional", "purefn.optim", "purefn.data", "purefn.testing"]


def module_names():
    for package in PACKAGES:
        root = importlib.import_module(package)
        yield package
        for module in pkgutil.walk_packages(root.__path__, f"{package}."):
            yield module.name


MODULES = sorted(module_names())


def exported_functions():
    """Return for each function that a package exports the names under which it does."""
    names = {}
    for module in MODULES:
        namespace = vars(importlib.import_module(module))
        for name in namespace.get("__all__", ()):
            if inspect.isfunction(namespace[name]):
                names.setdefault(namespace[name], f"{module}.{name}")
    return {name: function for function, name in names.items()}


FUNCTIONS = exported_functions()


def test_the_walk_finds_the_packages():
    assert {"purefn.functional.tree.pytree", "purefn.optim", "purefn.data"} <= set(MODULES)
    assert {"purefn.functional.tree.map", "purefn.functional.losses.nll"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    module = importlib.import_module(name)
    package = sys.modules[name.rpartition(".")[0]]
    # An example may use whatever stands beside its function in the package that exports it.
    beside = {
        entry: getattr(package, entry)
        for entry in getattr(package, "__all__", ())
        if not hasattr(module, entry)
    }
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS, extraglobs=beside)
    assert result.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_for(name):
    assert inspect.getdoc(importlib.import_module(name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_exported_function_has_an_example(name):
    documentation = inspect.getdoc(FUNCTIONS[name])
    assert documentation, f"{name} has no docstring"
    examples = doctest.DocTestParser().get_examples(documentation)
    assert examples, f"{name} has no example that runs"


@pytest.mark.parametrize("name", MODULES)
def test_all_lists_what_exists_once(name):
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert len(set(exported)) == len(exported)
    assert [entry for entry in exported if not hasattr(module, entry)] == []
