"""Files that run without this library compute what the layer does."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from purefn.functional import interop, nn, random, tree
from purefn.functional.interop import programs

KEY = random.key(0)
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def network():
    return nn.serial(
        conv=nn.conv2d(4, 3),
        norm=nn.batch_norm(),
        act=nn.relu,
        flat=nn.flatten(),
        head=nn.linear(2),
    )


def converted():
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(), torch.nn.Flatten()
    )
    return interop.from_module(module)


def values(layer, x):
    drawn = layer.init(KEY, x)
    return drawn if isinstance(layer, nn.StatefulLayer) else (drawn, None)


def run_onnx(path, *inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    arrays = [value.numpy() for value in inputs]
    return [torch.from_numpy(y) for y in session.run(None, dict(zip(names, arrays, strict=True)))]


@pytest.mark.parametrize("kind", ["network", "attention", "lstm", "converted", "encoder"])
def test_a_torch_program_takes_any_batch(kind, tmp_path):
    layer, x = {
        "network": (network(), IMAGES),
        "attention": (nn.multi_head_attention(2), SEQUENCES),
        "lstm": (nn.lstm(4), SEQUENCES[:, :2]),
        "converted": (converted()[0], IMAGES),
        "encoder": (
            interop.from_module(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))[0],
            SEQUENCES,
        ),
    }[kind]
    params, state = values(layer, x)
    path = tmp_path / "model.pt2"
    interop.export(layer, params, x, path, state=state, dynamic_batch=True)
    many = torch.cat([x, x, x]) + 1
    y = torch.export.load(path).module()(many)
    wanted = layer(params, many) if state is None else layer(params, state, many)[0]
    for found, value in zip(tree.leaves(y), tree.leaves(wanted), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)


def test_onnx_runs_what_was_exported(tmp_path):
    layer, params, state = converted()
    path = tmp_path / "model.onnx"
    interop.export(layer, params, IMAGES, path, state=state, dynamic_batch=True)
    onnx.checker.check_model(onnx.load(path))
    many = torch.cat([IMAGES, IMAGES, IMAGES])
    (found,) = run_onnx(path, many)
    torch.testing.assert_close(found, layer(params, state, many)[0], rtol=1e-5, atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_onnx_takes_trees_of_inputs_and_gives_trees(tmp_path):
    pair = nn.lift(lambda x: {"sum": x["a"] + x["b"][0], "more": (x["a"] * 2,)}, "pair")
    x = {"a": torch.randn(3), "b": [torch.randn(3)]}
    path = tmp_path / "pair.onnx"
    interop.export(pair, {}, x, path)
    found = run_onnx(path, x["a"], x["b"][0])
    torch.testing.assert_close(found, [x["a"] + x["b"][0], x["a"] * 2])


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    layer, path = nn.linear(2), tmp_path / "model.pt2"
    params = layer.init(KEY, SEQUENCES)
    path.write_text("what was there")
    honest = programs._run_torch

    def wrong(path, x):
        return [y + 1e-3 for y in honest(path, x)]

    monkeypatch.setattr(programs, "_run_torch", wrong)
    with pytest.raises(interop.ExportError, match=r"differs by 0\.001 from the layer's"):
        interop.export(layer, params, SEQUENCES, path)
    monkeypatch.setattr(programs, "_run_torch", lambda path, x: [honest(path, x)[0][:1]])
    with pytest.raises(interop.ExportError, match=r"came back as torch.float32 of \(1, 5, 2\)"):
        interop.export(layer, params, SEQUENCES, path)
    assert path.read_text() == "what was there"
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


def test_what_cannot_be_exported_says_so(tmp_path):
    branching = nn.lift(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(interop.ExportError, match=r"torch\.export refused the layer"):
        interop.export(branching, {}, IMAGES, tmp_path / "model.pt2")
    dropped = interop.from_module(Noisy())[0]
    with pytest.raises(interop.ExportError, match="needs a key"):
        interop.export(dropped, {}, IMAGES, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


class Noisy(torch.nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("x", "name", "options", "error", "message"),
    [
        (SEQUENCES, "model.txt", {}, ValueError, r"ends in \.onnx or \.pt2, got 'model.txt'"),
        ([1, 2], "model.pt2", {}, TypeError, "a tensor or a tree of tensors"),
        ({}, "model.pt2", {}, TypeError, "a tensor or a tree of tensors"),
        (SEQUENCES, "model.pt2", {"state": {}}, TypeError, "export: a layer without state"),
        (torch.ones(()), "model.pt2", {"dynamic_batch": True}, ValueError, r"shapes \[\(\)\]"),
        (
            (torch.ones(2), torch.ones(3)),
            "model.pt2",
            {"dynamic_batch": True},
            ValueError,
            "one number of examples",
        ),
    ],
)
def test_wrong_arguments_are_refused(x, name, options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layer = nn.linear(2)
    with pytest.raises(error, match=message):
        interop.export(layer, layer.init(KEY, SEQUENCES), x, name, **options)
    assert not list(tmp_path.iterdir())


def test_what_is_infinite_or_no_number_must_be_that(tmp_path):
    layer = nn.lift(lambda x: (torch.log(x - 1), x.masked_fill(x > 1, -np.inf), None, x))
    interop.export(layer, {}, SEQUENCES, tmp_path / "model.pt2")
    y = torch.tensor([np.nan, -np.inf, 1.0, 2.0])
    programs._compare([y * (1 + 1e-7)], y)
    for index, wrong in [(0, 1.0), (1, 3.0), (1, np.inf), (1, np.nan), (2, np.inf), (2, 1.1)]:
        found = y.clone()
        found[index] = wrong
        with pytest.raises(interop.ExportError, match="largest value is 2"):
            programs._compare([found], y)


def test_integers_must_agree_exactly():
    programs._compare([torch.tensor([1, 2])], torch.tensor([1, 2]))
    with pytest.raises(interop.ExportError, match="differs by 1"):
        programs._compare([torch.tensor([1, 3])], torch.tensor([1, 2]))
    with pytest.raises(interop.ExportError, match="differs by nan"):
        programs._compare([torch.tensor([np.nan])], torch.tensor([1.0]))
    large = torch.tensor([2**60])
    with pytest.raises(interop.ExportError, match="output 0 of the file differs"):
        programs._compare([large + 1], large)
    with pytest.raises(interop.ExportError, match="1 outputs came back of 2"):
        programs._compare([torch.ones(1)], (torch.ones(1), torch.ones(1)))
