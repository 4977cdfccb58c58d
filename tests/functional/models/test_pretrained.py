"""Published weights: torchvision's table, its way of loading a file, and files that are refused."""

import contextlib
import functools
import hashlib
import http.server
import importlib.util
import threading

import pytest
import torch

from purefn import data
from purefn.functional import models, nn, random, tree
from purefn.functional.models import downloading, loading, published

SMALL = {"patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}


@pytest.fixture(scope="module")
def torchvision():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    return importlib.import_module("torchvision.models", data.import_torchvision().__name__)


def saved(folder, stem, value):
    """Save what is given under a name that holds the beginning of its digest; return the name."""
    torch.save(value, folder / stem)
    digest = hashlib.sha256((folder / stem).read_bytes()).hexdigest()
    name = f"{stem}-{digest[:8]}.pth"
    (folder / stem).rename(folder / name)
    return name


def publish(monkeypatch, name, file, folder=None, **prepared):
    """Let a file count as the weights of a model, and be had from a folder."""
    table = {name: {"IMAGENET1K_V1": models.PublishedWeights(file, **prepared)}}
    monkeypatch.setattr(published, "PUBLISHED", table)
    if folder is not None:
        url = property(lambda self: f"{folder.as_uri()}/{self.file}")
        monkeypatch.setattr(models.PublishedWeights, "url", url)


@pytest.fixture
def small_vit(torchvision, monkeypatch, tmp_path):
    """Return torchvision's small transformer, whose weights are had from `tmp_path / "remote"`."""
    torch.manual_seed(0)
    module = torchvision.VisionTransformer(image_size=8, num_classes=1000, **SMALL)
    torch.nn.init.normal_(module.heads.head.weight)
    build = functools.partial(models.vision_transformer, **SMALL)
    monkeypatch.setattr(loading.vit, "vit_b_16", build)
    (tmp_path / "remote").mkdir()
    file = saved(tmp_path / "remote", "vit_b_16", module.state_dict())
    publish(monkeypatch, "vit_b_16", file, tmp_path / "remote", crop_size=8)
    return module.eval()


def test_the_table_is_torchvisions(torchvision):
    names = [name for name in models.__all__ if name in torchvision.list_models()]
    assert sorted(published.PUBLISHED) == sorted(names)
    for name in names:
        enum = torchvision.get_model_weights(name)
        # One file has no weights for the last layers.
        known = {entry.name: entry for entry in enum if entry.meta["categories"]}
        assert published.PUBLISHED[name].keys() == known.keys(), name
        default = models.published_weights(name)
        assert default == models.published_weights(name, enum.DEFAULT.name)
        for weights, entry in known.items():
            found, preset = models.published_weights(name, weights), entry.transforms()
            assert found.url == entry.url
            assert f"-{found.sha256}.pth" in entry.url
            assert len(found.sha256) == 8
            assert [found.crop_size] == preset.crop_size
            assert [found.resize_size] == preset.resize_size
            assert found.interpolation == preset.interpolation.value
            assert (list(found.mean), list(found.std)) == (preset.mean, preset.std)
            assert len(entry.meta["categories"]) == 1000


def test_every_model_of_the_table_is_built_at_its_size():
    for name, known in published.PUBLISHED.items():
        for entry in known.values():
            model = loading._network(name).build(1000, entry.crop_size)
            assert isinstance(model, nn.StatefulLayer) == ("res" in name or "bn" in name)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "vgg11", "vgg13_bn", "vit_b_32"])
def test_the_last_layer_has_torchvisions_name(torchvision, name):
    with torch.device("meta"):
        module = getattr(torchvision, name)()
    assert module.get_submodule(loading._network(name).head).out_features == 1000


def test_resnet18_is_torchvisions_with_the_same_file(torchvision, monkeypatch, tmp_path):
    torch.manual_seed(0)
    module = torchvision.resnet18()
    module.bn1.running_mean.normal_()
    module.bn1.num_batches_tracked.fill_(7)
    file = saved(tmp_path, "resnet18", module.state_dict())
    publish(monkeypatch, "resnet18", file)
    model, params, state = models.pretrained("resnet18", root=tmp_path, download=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = module.eval()(x)
    logits, _ = model(params, state, x)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    flat = {**tree.to_state_dict(params), **tree.to_state_dict(state)}
    assert flat.keys() == module.state_dict().keys()
    assert all(flat[name].equal(value) for name, value in module.state_dict().items())


def test_older_files_in_half_precision_and_without_counts(torchvision, monkeypatch, tmp_path):
    build = functools.partial(models.vgg11_bn, hidden_features=8)
    monkeypatch.setattr(loading.vgg, "vgg11_bn", build)
    with torch.device("meta"):
        module = torchvision.vgg11_bn()
        for index, sizes in ((0, (25088, 8)), (3, (8, 8)), (6, (8, 1000))):
            module.classifier[index] = torch.nn.Linear(*sizes)
    half = {
        name: torch.nn.Parameter(torch.rand(value.shape, dtype=torch.float16))
        for name, value in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    publish(monkeypatch, "vgg11_bn", saved(tmp_path, "vgg11_bn", half))
    _, *found = models.pretrained("vgg11_bn", root=tmp_path)
    module.to_empty(device="cpu")
    for name, buffer in module.named_buffers():
        buffer.fill_(0 if name.endswith("tracked") else -1)
    module.load_state_dict(half)  # torch puts up with counts that are missing
    expected = module.state_dict()
    found = {name: value for part in found for name, value in tree.to_state_dict(part).items()}
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert (value.dtype, value.requires_grad) == (expected[name].dtype, False)
        assert value.equal(expected[name])


def test_names_of_older_transformers_are_todays(small_vit, monkeypatch, tmp_path):
    old = type(small_vit.state_dict())(
        (name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"), value)
        for name, value in small_vit.state_dict().items()
    )
    small_vit.load_state_dict(old)  # torchvision itself renames them where a version is missing
    publish(monkeypatch, "vit_b_16", saved(tmp_path, "vit_b_16", old), crop_size=8)
    model, params = models.pretrained("vit_b_16", root=tmp_path)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model(params, x), small_vit(x).detach(), rtol=1e-5, atol=1e-5)


def test_a_new_last_layer(small_vit, tmp_path):
    _, before = models.pretrained("vit_b_16", root=tmp_path)
    model, params = models.pretrained("vit_b_16", root=tmp_path, num_classes=3, key=random.key(0))
    assert model(params, torch.randn(2, 3, 8, 8)).equal(torch.zeros(2, 3))
    assert params["heads"]["head"]["weight"].shape == (3, 8)
    assert tree.all(tree.map(torch.equal, {**params, "heads": {}}, {**before, "heads": {}}))


def test_a_new_last_layer_is_drawn_as_in_an_untrained_model():
    flat = {"classifier.6.weight": torch.zeros(1000, 50), "classifier.0.weight": torch.ones(2, 2)}
    new = loading._with_new_head(flat, loading._network("vgg16"), 400, random.key(0))
    assert new["classifier.6.weight"].shape == (400, 50)
    assert abs(new["classifier.6.weight"].std() - 0.01) < 2e-4
    assert new["classifier.6.bias"].equal(torch.zeros(400))
    assert new["classifier.0.weight"] is flat["classifier.0.weight"]
    flat = {"fc.weight": torch.zeros(1000, 25), "fc.bias": torch.zeros(1000)}
    new = loading._with_new_head(flat, loading._network("resnet50"), 7, random.key(0))
    assert new["fc.weight"].shape == (7, 25)
    assert 0.15 < new["fc.weight"].abs().max() <= 0.2  # uniform within 1 / sqrt(25)


def test_a_file_is_fetched_once_and_kept(small_vit, monkeypatch, tmp_path):
    root = tmp_path / "a" / "b"
    first = models.pretrained("vit_b_16", root=root)[1]
    (kept,) = root.iterdir()
    assert kept.name == published.published_weights("vit_b_16").file
    (tmp_path / "remote" / kept.name).unlink()
    second = models.pretrained("vit_b_16", root=root, download=False)[1]
    assert tree.all(tree.map(torch.equal, first, second))
    third = models.pretrained("vit_b_16", root=str(root))[1]
    assert tree.all(tree.map(torch.equal, first, third))


def test_without_a_folder_torchs_own_is_taken(small_vit, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    models.pretrained("vit_b_16")
    (kept,) = (tmp_path / "home" / "hub" / "checkpoints").iterdir()
    assert kept.suffix == ".pth"


def test_the_home_folder_may_be_written_as_in_a_shell(small_vit, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    models.pretrained("vit_b_16", root="~/weights")
    assert len(list((tmp_path / "weights").iterdir())) == 1


def test_damaged_files_are_refused(small_vit, tmp_path):
    remote = tmp_path / "remote" / published.published_weights("vit_b_16").file
    whole = remote.read_bytes()
    remote.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RuntimeError, match=r"what came from file:.* is damaged: its SHA-256"):
        models.pretrained("vit_b_16", root=tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []
    (tmp_path / "kept" / remote.name).write_bytes(whole[:100])
    with pytest.raises(RuntimeError, match=r"kept.* is damaged.*Remove it to fetch it again"):
        models.pretrained("vit_b_16", root=tmp_path / "kept")
    assert (tmp_path / "kept" / remote.name).read_bytes() == whole[:100]


def test_files_that_cannot_be_had(small_vit, tmp_path):
    remote = tmp_path / "remote" / published.published_weights("vit_b_16").file
    with pytest.raises(RuntimeError, match=r"is not there\. Fetch it from file:"):
        models.pretrained("vit_b_16", root=tmp_path / "kept", download=False)
    assert not (tmp_path / "kept").exists()
    remote.unlink()
    with pytest.raises(RuntimeError, match=r"could not be fetched .*Put the file into .*kept"):
        models.pretrained("vit_b_16", root=tmp_path / "kept")
    (tmp_path / "kept" / remote.name).mkdir(parents=True)
    with pytest.raises(RuntimeError, match=r"kept.* cannot be read: .*directory"):
        models.pretrained("vit_b_16", root=tmp_path / "kept")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RuntimeError, match="could not be fetched"):
        models.pretrained("vit_b_16", root=tmp_path / "file")


@contextlib.contextmanager
def served(body, length=None):
    """Serve `body` at every path but `/missing`, and claim that it has `length` bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path == "/missing" else 200)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            if self.path != "/missing":
                self.wfile.write(body)

        def send_response(self, code):
            if self.path == "/garbage":
                self.wfile.write(b"no line of http\r\n\r\n")
            super().send_response(code)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_downloads_over_http(tmp_path):
    body = bytes(range(256)) * 8000
    digest = hashlib.sha256(body).hexdigest()
    with served(body) as host:
        path = downloading.fetched(f"{host}/weights.pth", tmp_path, digest)
        assert path == tmp_path / "weights.pth"
        assert path.read_bytes() == body
        with pytest.raises(RuntimeError, match=r"garbage could not be fetched \(no line of http"):
            downloading.fetched(f"{host}/garbage", tmp_path, digest)
        with pytest.raises(RuntimeError, match=r"missing could not be fetched \(HTTP Error 404"):
            downloading.fetched(f"{host}/missing", tmp_path, digest)
    with served(body[:-1], length=len(body)) as host, pytest.raises(RuntimeError):
        downloading.fetched(f"{host}/cut", tmp_path, digest)
    with served(body[:-1]) as host, pytest.raises(RuntimeError, match="is damaged"):
        downloading.fetched(f"{host}/short", tmp_path, digest)
    with pytest.raises(RuntimeError, match="could not be fetched"):
        downloading.fetched(f"{host}/gone", tmp_path, digest)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


class Trap:
    """What a pickle would run on loading."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('the file has run')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv_proj.weight": Trap()}, "cannot be read as weights"),
        ([torch.zeros(2)], "does not hold a dict of tensors by name"),
        ({"conv_proj.weight": 3.0}, "does not hold a dict of tensors by name"),
        ({"conv_proj.weight": torch.zeros(8, 3, 4, 4)}, r"does not hold the weights of vit_b_16"),
    ],
)
def test_files_with_other_content_are_refused(small_vit, monkeypatch, tmp_path, content, message):
    publish(monkeypatch, "vit_b_16", saved(tmp_path, "vit_b_16", content), crop_size=8)
    with pytest.raises(RuntimeError, match=message):
        models.pretrained("vit_b_16", root=tmp_path)


def test_files_that_are_no_archive_are_refused(small_vit, monkeypatch, tmp_path):
    for text in (b"", b"<html>busy</html>"):
        name = f"page-{hashlib.sha256(text).hexdigest()[:8]}.pth"
        (tmp_path / name).write_bytes(text)
        publish(monkeypatch, "vit_b_16", name, crop_size=8)
        with pytest.raises(RuntimeError, match="cannot be read as weights"):
            models.pretrained("vit_b_16", root=tmp_path)


def test_weights_of_another_model_are_refused(small_vit, monkeypatch, tmp_path):
    more = {**small_vit.state_dict(), "encoder.more": torch.zeros(1)}
    flat = {**small_vit.state_dict(), "heads.head.weight": torch.zeros(8)}
    publish(monkeypatch, "vit_b_16", saved(tmp_path, "vit_b_16", flat), crop_size=8)
    with pytest.raises(RuntimeError, match="does not hold the weights of vit_b_16: model"):
        models.pretrained("vit_b_16", root=tmp_path, num_classes=3, key=random.key(0))
    for wrong in (more, {n: v for n, v in more.items() if not n.startswith("heads")}):
        publish(monkeypatch, "vit_b_16", saved(tmp_path, "vit_b_16", wrong), crop_size=8)
        with pytest.raises(RuntimeError, match="does not hold the weights of vit_b_16: model"):
            models.pretrained("vit_b_16", root=tmp_path)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"one of the models resnet18, .*, vit_l_16, got 'lenet'"):
        models.pretrained("lenet")
    with pytest.raises(ValueError, match=r"one of the models resnet18, .*, got \['resnet18'\]"):
        models.pretrained(["resnet18"])
    with pytest.raises(TypeError, match="expected the path of a folder for root, got 3"):
        models.pretrained("resnet18", root=3)
    with pytest.raises(ValueError, match=r"resnet50 has the weights 'DEFAULT', 'IMAGENET1K_V2'"):
        models.pretrained("resnet50", weights="V2")
    with pytest.raises(ValueError, match="num_classes=10 and no key"):
        models.pretrained("resnet18", num_classes=10, root=tmp_path, download=False)
    with pytest.raises(ValueError, match="num_classes=None and a key"):
        models.pretrained("resnet18", key=random.key(0), root=tmp_path, download=False)
    with pytest.raises(ValueError, match="pretrained: expected num_classes >= 1, got 0"):
        models.pretrained("resnet18", num_classes=0, key=random.key(0), root=tmp_path)
    with pytest.raises(TypeError, match="pretrained"):
        models.pretrained("resnet18", num_classes=2, key=torch.zeros(2), root=tmp_path)
