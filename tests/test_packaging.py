"""What is shipped, what importing it needs, and which part may import which."""

import ast
import email
import importlib
import pkgutil
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS = {package: ROOT / folder for package, folder in SETUPTOOLS["package-dir"].items()}

#: From the ground up: a part imports its own floor and those below.
FLOORS = [
    {"polyfills", "random", "tree"},
    {"border", "one_hot"},
    {"abstract", "autodiff", "batching", "control", "staging"},
    {"curvature", "initializers", "interop", "losses", "metrics", "nn", "per_example"},
    {"models"},
]

#: The distributions whose modules have another name.
MODULE_NAMES = {"pillow": "PIL", "pytest-xdist": "xdist"}


def requirements(entries):
    names = [Requirement(entry).name for entry in entries]
    return {MODULE_NAMES.get(name, name) for name in names}


REQUIRED = requirements(PROJECT["project"]["dependencies"])
TESTING = requirements(PROJECT["project"]["optional-dependencies"]["testing"])
EXTRAS = requirements(
    entry for entries in PROJECT["project"]["optional-dependencies"].values() for entry in entries
)


def module_files(package):
    """Map the full name of every module of a package to its file."""
    folder = FOLDERS[package]
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        yield ".".join([package, *parts]), file


MODULES = {name: file for package in FOLDERS for name, file in module_files(package)}


def imports(name, outermost=False):
    """Yield the full names that a module imports, or only what it imports when it is imported."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    pending = [ast.parse(MODULES[name].read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            ancestors = package.split(".")
            base = ancestors[: len(ancestors) + 1 - node.level] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield full if full in MODULES else source
        elif not (outermost and isinstance(node, (ast.FunctionDef, ast.Lambda))):
            pending.extend(ast.iter_child_nodes(node))


# --- what is shipped -----------------------------------------------------------------------------


def test_every_package_folder_is_listed():
    found = {name for name, file in MODULES.items() if file.name == "__init__.py"}
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)
    for name, file in MODULES.items():
        assert (file.parent / "__init__.py").exists(), f"{name} lies in no package"


def test_every_top_folder_with_code_to_import_is_mapped():
    folders = {file.parent for file in ROOT.glob("*/__init__.py")}
    # Run from a checkout: with a file of its own it comes before a package of that name (Opacus's).
    folders.remove(ROOT / "benchmarks")
    assert folders == set(FOLDERS.values())


@pytest.mark.parametrize("package", FOLDERS)
def test_a_top_package_is_typed(package):
    assert (FOLDERS[package] / "py.typed").exists()


def is_generated(path):
    return "__pycache__" in path.parts or any(part.startswith(".") for part in path.parts)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS.values():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(folder, source / folder.relative_to(ROOT), ignore=ignore)
    for name in ("pyproject.toml", PROJECT["project"]["readme"], "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (file,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    expected = {
        "/".join([*package.split("."), *file.relative_to(folder).parts])
        for package, folder in FOLDERS.items()
        for file in folder.rglob("*")
        if file.is_file() and not is_generated(file.relative_to(folder))
    }
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == expected
    assert {"purefn/functional/py.typed", "purefn/data/digits.npz"} <= shipped


def test_the_wheel_says_what_it_needs(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    needed = {Requirement(entry) for entry in metadata.get_all("Requires-Dist")}
    assert {Requirement(entry) for entry in PROJECT["project"]["dependencies"]} <= needed
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra")) == set(extras)


# --- what importing needs ------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_is_required(name):
    own = TESTING if name.startswith("purefn.testing") else set()
    allowed = REQUIRED | own | {"purefn"} | sys.stdlib_module_names
    assert {full.split(".")[0] for full in imports(name, outermost=True)} <= allowed


@pytest.mark.parametrize("name", MODULES)
def test_what_a_function_imports_is_declared(name):
    allowed = REQUIRED | EXTRAS | {"purefn"} | sys.stdlib_module_names
    assert {full.split(".")[0] for full in imports(name)} <= allowed


def test_everything_imports_where_no_extra_is_installed_and_sets_nothing():
    # A module that is None in sys.modules raises ImportError, which torch takes for "not there".
    script = f"""
import importlib, random, sys, threading
extras = {sorted(EXTRAS - {"setuptools"})}
sys.modules.update(dict.fromkeys(extras))
import numpy, optree, torch

def settings():
    state = random.getstate(), torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist()
    return state, torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()

before = settings()
for name in {[name for name in MODULES if not name.startswith("purefn.testing.")]}:
    importlib.import_module(name)
assert [extra for extra in extras if sys.modules[extra] is not None] == []
assert settings() == before
assert threading.active_count() == 1
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# --- which part may import which -----------------------------------------------------------------


def part(name):
    """Return the part of purefn.functional that a module belongs to; the roof itself is ''."""
    return name.removeprefix("purefn.functional").lstrip(".").split(".")[0]


def floor(name):
    floors = [index for index, parts in enumerate(FLOORS) if part(name) in parts]
    assert floors, f"{name} stands on no floor: give it one in FLOORS"
    return floors[0]


INSIDE_FUNCTIONAL = [name for name in MODULES if name.startswith("purefn.functional.")]


@pytest.mark.parametrize("name", INSIDE_FUNCTIONAL)
def test_imports_only_go_down_the_floors(name):
    for imported in imports(name):
        if not imported.startswith("purefn"):
            continue
        assert imported.startswith("purefn.functional"), f"{name} imports {imported}"
        assert part(imported), f"{name} imports the roof; import the module that defines the name"
        assert floor(imported) <= floor(name), f"{name} imports {imported}, a floor above its own"


@pytest.mark.parametrize("name", MODULES)
def test_optim_and_data_stand_on_functional_alone(name):
    package = ".".join(name.split(".")[:2])
    if package == "purefn.testing":
        return
    others = {".".join(full.split(".")[:2]) for full in imports(name) if full.startswith("purefn")}
    assert others <= {package, "purefn.functional"}


@pytest.mark.parametrize("name", MODULES)
def test_a_package_imports_its_own_parts_relatively(name):
    absolute = [
        node
        for node in ast.walk(ast.parse(MODULES[name].read_text()))
        if (isinstance(node, ast.Import) and any("purefn" in a.name for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("purefn"))
    ]
    assert not [ast.unparse(node) for node in absolute]


@pytest.mark.parametrize("name", SETUPTOOLS["packages"])
def test_no_export_hides_a_submodule(name):
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__):
        submodule = importlib.import_module(f"{name}.{module.name}")
        assert getattr(package, module.name) is submodule
