import hashlib
import json
import os
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purefn import data
from purefn.functional import tree

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.uint32,
    torch.bool,
]


class Moments(NamedTuple):
    mu: dict
    count: torch.Tensor


def example():
    weights = {"fc": {"weight": torch.randn(3, 2).t(), "bias": torch.zeros(0)}}
    return {"params": weights, "state": Moments(weights, torch.tensor(3, dtype=torch.int32))}


def same(left, right):
    assert tree.structure(left) == tree.structure(right)
    for one, other in zip(tree.leaves(left), tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_a_tree_comes_back_bit_for_bit(tmp_path):
    values = example()
    data.save_checkpoint(tmp_path / "a.safetensors", values, {"epoch": "2", "note": "é"})
    loaded, metadata = data.load_checkpoint(tmp_path / "a.safetensors", like=values)
    same(loaded, values)
    assert metadata == {"epoch": "2", "note": "é"}
    assert os.listdir(tmp_path) == ["a.safetensors"]


@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=4),
    dtype=st.sampled_from(DTYPES),
)
def test_every_shape_and_dtype_comes_back(tmp_path_factory, shapes, dtype):
    path = tmp_path_factory.mktemp("checkpoints") / "a.safetensors"
    values = [torch.randint(0, 2, shape).to(dtype) for shape in shapes]
    data.save_checkpoint(path, values)
    same(data.load_checkpoint(path, like=values)[0], values)


def test_another_reader_agrees(tmp_path):
    """safetensors itself reads the file, and the header is what its format says."""
    from safetensors.torch import load_file

    data.save_checkpoint(tmp_path / "a.safetensors", example()["params"], {"k": "v"})
    assert set(load_file(tmp_path / "a.safetensors")) == {"fc.weight", "fc.bias"}
    content = (tmp_path / "a.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["k"] == "v"
    assert len(header["__metadata__"]["sha256"]) == hashlib.sha256().digest_size * 2


def test_every_cut_and_every_flipped_byte_is_refused(tmp_path):
    path, values = tmp_path / "a.safetensors", {"w": torch.arange(5.0), "n": torch.tensor(2)}
    data.save_checkpoint(path, values, {"epoch": "1"})
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a\.safetensors is damaged"):
            data.load_checkpoint(path, like=values)
    text = bytearray(content)
    text[content.index(b'"epoch":"1"') + 9] = ord("2")
    path.write_bytes(bytes(text))
    with pytest.raises(ValueError, match="damaged"):
        data.load_checkpoint(path, like=values)
    data_start = 8 + int.from_bytes(content[:8], "little")
    for position in range(data_start, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match="damaged"):
            data.load_checkpoint(path, like=values)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": torch.ones(3)}, r"'w' has shape \(2,\).*expected \(3,\)"),
        ({"w": torch.ones(2, dtype=torch.float64)}, r"float32.*expected.*float64"),
        ({"v": torch.ones(2)}, r"missing names \['v'\], unknown names \['w'\]"),
        ({"w": torch.ones(2), "b": torch.ones(1)}, r"missing names \['b'\]"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, like, message):
    data.save_checkpoint(tmp_path / "a.safetensors", {"w": torch.ones(2)})
    with pytest.raises(ValueError, match=f"checkpoint of something else.*{message}"):
        data.load_checkpoint(tmp_path / "a.safetensors", like=like)


def test_a_failed_write_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    data.save_checkpoint(path, {"w": torch.ones(2)})
    before = path.read_bytes()

    def no_space(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        data.save_checkpoint(path, {"w": torch.zeros(2)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_without_an_example_the_tree_is_nested_dicts(tmp_path):
    data.save_checkpoint(tmp_path / "a.safetensors", example(), {"epoch": "2"})
    loaded, metadata = data.load_checkpoint(tmp_path / "a.safetensors")
    assert set(loaded) == {"params", "state"}
    assert torch.equal(loaded["state"]["count"], torch.tensor(3, dtype=torch.int32))
    assert metadata == {"epoch": "2"}


def test_the_key_of_the_digest_is_taken(tmp_path):
    with pytest.raises(ValueError, match="'sha256' in metadata is taken"):
        data.save_checkpoint(tmp_path / "a.safetensors", {}, {"sha256": "mine"})


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (3.0, r"expected values\['a'\]\[1\] to be a tensor, got 3\.0"),
        (torch.ones(2, dtype=torch.complex128), r"values\['a'\]\[1\] is .*torch\.complex128"),
    ],
)
def test_a_leaf_that_cannot_be_written_is_named(tmp_path, leaf, message):
    with pytest.raises(TypeError, match=message):
        data.save_checkpoint(tmp_path / "a.safetensors", {"a": [torch.ones(1), leaf]})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_of_another_writer_is_said_to_be_one(tmp_path, metadata):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ValueError, match="was not written by save_checkpoint"):
        data.load_checkpoint(tmp_path / "a.safetensors")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        data.load_checkpoint(tmp_path / "nothing.safetensors", like={})


def test_no_pickle_is_ever_read(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        data.load_checkpoint(tmp_path / "a.pt", like={"w": torch.ones(2)})


def test_tensors_read_are_aligned_like_any_other(tmp_path):
    values = {f"{index}": torch.ones(index + 1) for index in range(8)}
    data.save_checkpoint(tmp_path / "a.safetensors", values)
    loaded, _ = data.load_checkpoint(tmp_path / "a.safetensors", like=values)
    assert all(leaf.data_ptr() % 64 == 0 for leaf in tree.leaves(loaded))
