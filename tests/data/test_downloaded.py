"""Tiny files in the real formats, read through torchvision; only its checksums are replaced."""

import gzip
import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from purefn import data
from purefn.data import extras

NOWHERE = "http://127.0.0.1:9/"
MNIST_FILES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


def idx(array):
    """Encode a uint8 array in the IDX format of http://yann.lecun.com/exdb/mnist/."""
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


MNIST_ARRAYS = [
    pixels(0, 5, 28, 28),
    np.array([3, 0, 9, 9, 1], dtype=np.uint8),
    pixels(1, 2, 28, 28),
    np.array([7, 3], dtype=np.uint8),
]


def write_mnist(folder, arrays=MNIST_ARRAYS):
    folder.mkdir(parents=True)
    for name, array in zip(MNIST_FILES, arrays, strict=True):
        (folder / name).write_bytes(idx(array))


def assert_holds(ds, images, labels):
    assert ds.images.dtype == torch.float32
    assert ds.images.is_contiguous()
    np.testing.assert_allclose(ds.images.numpy(), images / 255, rtol=1e-7)
    assert ds.labels.dtype == torch.int64
    assert ds.labels.tolist() == list(labels)


def assert_holds_the_mnist_arrays(parts):
    train, test = parts
    assert_holds(train, MNIST_ARRAYS[0][:, None], MNIST_ARRAYS[1])
    assert_holds(test, MNIST_ARRAYS[2][:, None], MNIST_ARRAYS[3])


@pytest.mark.parametrize(
    ("load", "name"), [(data.mnist, "MNIST"), (data.fashion_mnist, "FashionMNIST")]
)
def test_idx_files_are_read(torchvision, tmp_path, load, name):
    write_mnist(tmp_path / name / "raw")
    train, test = load(tmp_path, download=False)
    assert_holds_the_mnist_arrays((train, test))
    assert train.classes == test.classes
    assert train.classes[0] == {"MNIST": "0", "FashionMNIST": "T-shirt/top"}[name]


def test_packed_idx_files_are_unpacked_without_a_network(torchvision, tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    resources = []
    for name, array in zip(MNIST_FILES, MNIST_ARRAYS, strict=True):
        packed = gzip.compress(idx(array))
        (raw / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [NOWHERE])
    assert_holds_the_mnist_arrays(data.mnist(tmp_path, download=True))
    assert_holds_the_mnist_arrays(data.mnist(tmp_path, download=False))


def write_pickle(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    encoded = pickle.dumps(content, protocol=2)
    file.write_bytes(encoded)
    return hashlib.md5(encoded).hexdigest()


def write_cifar(monkeypatch, source, folder, label_key, names_key, names, batches):
    """Write batches `{file name: (rows of 3072 bytes, labels)}` in the layout of CIFAR's readme."""

    def listed(files):
        return [
            [file, write_pickle(folder / file, {"data": rows, label_key: labels})]
            for file, (rows, labels) in batches.items()
            if file in files
        ]

    tests = [file for file, _ in source.test_list]
    monkeypatch.setattr(source, "train_list", listed(batches.keys() - set(tests)))
    monkeypatch.setattr(source, "test_list", listed(tests))
    meta_md5 = write_pickle(folder / source.meta["filename"], {names_key: names})
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": meta_md5})


def test_cifar10_pickles_are_read(torchvision, tmp_path, monkeypatch):
    batches = {
        "data_batch_1": (pixels(0, 2, 3072), [1, 0]),
        "data_batch_2": (pixels(1, 1, 3072), [2]),
        "test_batch": (pixels(2, 2, 3072), [2, 1]),
    }
    folder = tmp_path / "cifar-10-batches-py"
    names = ["airplane", "automobile", "bird"]
    source = torchvision.datasets.CIFAR10
    write_cifar(monkeypatch, source, folder, "labels", "label_names", names, batches)
    train, test = data.cifar10(tmp_path, download=False)
    rows = np.concatenate([batches["data_batch_1"][0], batches["data_batch_2"][0]])
    assert_holds(train, rows.reshape(3, 3, 32, 32), [1, 0, 2])
    assert_holds(test, batches["test_batch"][0].reshape(2, 3, 32, 32), [2, 1])
    assert train.classes == test.classes == tuple(names)


def test_cifar100_pickles_are_read_with_fine_labels(torchvision, tmp_path, monkeypatch):
    batches = {"train": (pixels(0, 3, 3072), [0, 1, 1]), "test": (pixels(1, 1, 3072), [1])}
    folder = tmp_path / "cifar-100-python"
    names = ["apple", "aquarium_fish"]
    source = torchvision.datasets.CIFAR100
    write_cifar(monkeypatch, source, folder, "fine_labels", "fine_label_names", names, batches)
    train, test = data.cifar100(tmp_path, download=False)
    assert_holds(train, batches["train"][0].reshape(3, 3, 32, 32), [0, 1, 1])
    assert_holds(test, batches["test"][0].reshape(1, 3, 32, 32), [1])
    assert train.classes == tuple(names)


@pytest.mark.parametrize(
    ("load", "place", "file"),
    [
        (data.mnist, "MNIST/raw", "train-images-idx3-ubyte.gz"),
        (data.fashion_mnist, "FashionMNIST/raw", "t10k-labels-idx1-ubyte.gz"),
        (data.cifar10, "", "cifar-10-python.tar.gz"),
        (data.cifar100, "", "cifar-100-python.tar.gz"),
    ],
)
def test_missing_files_are_named_with_their_place(torchvision, tmp_path, load, place, file):
    with pytest.raises(RuntimeError) as caught:
        load(tmp_path, download=False)
    message = str(caught.value)
    assert message.startswith(f"{load.__name__}: no readable files in {tmp_path / place} ")
    assert file in message
    assert "download=True" in message


def test_a_failed_download_says_what_to_put_where(torchvision, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [NOWHERE])
    with pytest.raises(RuntimeError, match=r"refused.*Put train-images-idx3-ubyte\.gz, .* there"):
        data.mnist(tmp_path)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", NOWHERE + "cifar-10-python.tar.gz")
    with pytest.raises(RuntimeError, match=r"refused.*Put cifar-10-python\.tar\.gz there"):
        data.cifar10(tmp_path)


@pytest.mark.parametrize("length", [0, 2, 20, 1000])
def test_a_file_cut_short_is_refused(torchvision, tmp_path, length):
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw)
    file = raw / "t10k-images-idx3-ubyte"
    assert len(file.read_bytes()) == 16 + 2 * 28 * 28
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(RuntimeError, match="mnist: no readable files in"):
        data.mnist(tmp_path, download=False)


@pytest.mark.parametrize("header", [b"\0\0\x0a\3", b"\0\0\x08\1", b"\0\0\x0d\3", b"PNG!"])
def test_a_damaged_header_is_refused(torchvision, tmp_path, header):
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw)
    file = raw / "t10k-images-idx3-ubyte"
    file.write_bytes(header + file.read_bytes()[4:])
    with pytest.raises(RuntimeError, match="mnist: no readable files in"):
        data.mnist(tmp_path, download=False)


def test_a_label_without_a_class_is_refused(torchvision, tmp_path):
    arrays = [*MNIST_ARRAYS[:3], np.array([7, 10], dtype=np.uint8)]
    write_mnist(tmp_path / "MNIST" / "raw", arrays)
    with pytest.raises(ValueError, match=r"mnist test\.labels\[1\] is 10"):
        data.mnist(tmp_path, download=False)


def test_a_missing_label_is_refused(torchvision, tmp_path):
    arrays = [MNIST_ARRAYS[0], MNIST_ARRAYS[1][:4], *MNIST_ARRAYS[2:]]
    write_mnist(tmp_path / "MNIST" / "raw", arrays)
    with pytest.raises(ValueError, match="mnist train: 5 images but 4 labels"):
        data.mnist(tmp_path, download=False)


def test_files_are_kept_in_the_cache_folder(torchvision, tmp_path, monkeypatch):
    monkeypatch.setenv("PUREFN_DATA", str(tmp_path))
    write_mnist(tmp_path / "MNIST" / "raw")
    assert_holds_the_mnist_arrays(data.mnist(download=False))


def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("PUREFN_DATA", "/somewhere")
    assert data.cache_folder() == Path("/somewhere")
    monkeypatch.delenv("PUREFN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert data.cache_folder() == Path("/caches/purefn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.cache_folder() == Path.home() / ".cache" / "purefn"


def test_without_torchvision_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for load in (data.mnist, data.fashion_mnist, data.cifar10, data.cifar100):
        with pytest.raises(
            ImportError, match=r'torchvision is not.*pip install "purefn\[vision\]"'
        ):
            load(tmp_path)


def test_operators_are_declared_only_where_the_compiled_ones_cannot_load(torchvision):
    declared = extras._declare_operators.cache_info().currsize == 1
    assert declared is not torchvision.extension._has_ops()


def test_a_torchvision_model_runs(torchvision):
    model = torchvision.models.resnet18(weights=None).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


def test_no_other_file_imports_torchvision():
    package = Path(extras.__file__).parent
    for file in package.glob("*.py"):
        if file.name != "extras.py":
            assert "import torchvision" not in file.read_text(), file
