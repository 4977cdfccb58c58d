"""Programs in files: one process compiles, another runs at once; nothing wrong is ever loaded."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
import torch

import purefn.functional as pf

SCRIPT = """
import sys, torch
import purefn.functional as pf
from purefn import optim
from purefn.functional import losses, nn, random, tree

model = nn.serial(*(layer for _ in range(4) for layer in (nn.linear(16), nn.relu)), nn.linear(10))
adam = optim.adam()
shift = torch.linspace(0, 1, 16)

@pf.jit(donate_argnums=(0, 1))
def step(params, state, images, labels):
    def loss(params):
        return losses.cross_entropy(model(params, images + shift), labels).mean()
    value, grads = pf.value_and_grad(loss)(params)
    updates, state = adam.update(grads, state, params)
    params = pf.fori_loop(0, 3, lambda i, p: tree.map(lambda x: x * 0.999, p), params)
    return optim.apply_updates(params, updates), state, value

images, labels = random.normal(random.key(1), (8, 16)), torch.arange(8)
params = model.init(random.key(0), images)
state = adam.init(params)
mode, path = sys.argv[1:]
if mode == "load":
    step.load(path)
    from torch._inductor import cpp_builder
    def refuse(*args, **kwargs):
        raise AssertionError("something was compiled")
    cpp_builder.CppBuilder.build = refuse
for _ in range(3):
    params, state, value = step(params, state, images, labels)
if mode == "save":
    step.save(path)
print(repr(value.item()), step.trace_count)
"""


def run(tmp_path, mode, environment):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), mode, str(tmp_path / "step.programs")]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_another_process_with_empty_caches_compiles_nothing(tmp_path):
    empty = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "empty")}
    assert run(tmp_path, "save", {}) == run(tmp_path, "load", empty)


def affine(x, scale):
    return {"y": x * scale + 1, "same": x}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    fun = pf.jit(affine)
    fun(torch.ones(3), 2.0)
    fun(torch.ones(4, dtype=torch.float64), 2.0)
    path = tmp_path_factory.mktemp("saved") / "affine.programs"
    fun.save(path)
    return path


@pytest.mark.slow
def test_loaded_programs_serve_their_kinds_and_no_other(saved):
    fun = pf.jit(affine)
    fun.load(saved)
    for x in (torch.arange(3.0), torch.arange(4.0, dtype=torch.float64)):
        result = fun(x, 3.0)
        assert torch.equal(result["y"], x * 3 + 1)
        assert result["same"] is not x
    assert fun.trace_count == 2
    assert torch.equal(fun(torch.arange(5.0), 3.0)["y"], torch.arange(5.0) * 3 + 1)
    assert fun.trace_count == 3


@pytest.mark.slow
def test_what_does_not_fit_is_refused(saved, tmp_path):
    other = pf.jit(lambda x, scale: {"y": x * scale + 2, "same": x})
    with pytest.raises(ValueError, match="made for another function"):
        other.load(saved)
    changed = tmp_path / "changed.programs"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "made_for.json":
                content = json.dumps(json.loads(content) | {"torch": "1.0"}).encode()
            new.writestr(name, content)
    with pytest.raises(ValueError, match=r"made for another torch: '1.0'.*Compile again"):
        pf.jit(affine).load(changed)
    for damaged in (b"", b"no archive", saved.read_bytes()[:-100]):
        changed.write_bytes(damaged)
        with pytest.raises(ValueError, match="holds no compiled programs"):
            pf.jit(affine).load(changed)
    with pytest.raises(FileNotFoundError):
        pf.jit(affine).load(tmp_path / "absent")


@pytest.mark.slow
def test_a_write_that_fails_leaves_no_file(saved, tmp_path):
    path = tmp_path / "affine.programs"
    path.write_bytes(saved.read_bytes())
    eager = pf.jit(affine, backend="eager")
    eager(torch.ones(2), 1.0)
    eager._programs[next(iter(eager._programs))]._run = lambda inputs: inputs
    with pytest.raises(ValueError, match="cannot be written to a file"):
        eager.save(path)
    assert path.read_bytes() == saved.read_bytes()
    assert list(tmp_path.iterdir()) == [path]
