"""The image classifier as a user runs it: a process with a command line and a folder of results."""

import dataclasses
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from purefn.functional import models, random, tree

ROOT = Path(__file__).parent.parent.parent
PICTURES = ("curve.png", "mistakes.png", "confusion.png")


def command(out, *options):
    script = ROOT / "examples" / "image_classifier.py"
    return [sys.executable, str(script), "--out", str(out), "--device", "cpu", *options]


def run(out, *options):
    return subprocess.run(command(out, *options), capture_output=True, text=True, check=False)


@pytest.fixture
def main(monkeypatch):
    """Return the script's main function, which takes the command line as a list."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("image_classifier").main


@pytest.fixture
def refused(main):
    """Return a function giving the message of a run that must end with one line."""

    def message(out, *options):
        with pytest.raises(SystemExit) as caught:
            main(["--out", str(out), "--device", "cpu", *options])
        assert str(caught.value).startswith("image_classifier: ")
        return str(caught.value)

    return message


def history(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def same_run(left, right):
    ours = load_file(left / "checkpoint.safetensors")
    theirs = load_file(right / "checkpoint.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert history(left) == history(right)


SHORT = ("--model", "mlp", "--no-jit", "--epochs", "4", "--batch-size", "256")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    result = run(out, *SHORT)
    assert result.returncode == 0, result.stderr
    return out, result


@pytest.mark.slow
def test_the_defaults_learn_the_digits(tmp_path):
    """In a quarter of their epochs, of which each takes seconds on one core."""
    result = run(tmp_path, "--epochs", "8")
    assert result.returncode == 0, result.stderr
    last = history(tmp_path)[-1]
    assert last["epoch"] == 8
    assert last["test_accuracy"] >= 0.965
    for name in PICTURES:
        with Image.open(tmp_path / name) as picture:
            assert len(set(picture.convert("L").tobytes())) > 20
    assert "test accuracy 9" in result.stdout


def test_a_run_leaves_metrics_pictures_and_a_checkpoint(uninterrupted):
    out, result = uninterrupted
    assert sorted(os.listdir(out)) == sorted([*PICTURES, "checkpoint.safetensors", "metrics.jsonl"])
    assert [epoch["epoch"] for epoch in history(out)] == [1, 2, 3, 4]
    assert history(out)[-1]["train_loss"] < history(out)[0]["train_loss"]
    for shown in ("images/s", "loss=", "accuracy=", "epoch 4/4"):
        assert shown in result.stderr


def test_a_run_killed_at_any_moment_resumes_bit_for_bit(uninterrupted, tmp_path):
    """Killed twice: once before the first checkpoint, and once as soon as there is one."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    for wait_for in (tmp_path, checkpoint):
        process = subprocess.Popen(
            command(tmp_path, "--resume", *SHORT), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 120
        while not wait_for.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert wait_for.exists()
    done = len(json.loads(json_header(checkpoint)["history"]))
    assert 1 <= done < 4
    result = run(tmp_path, "--resume", *SHORT)
    assert result.returncode == 0, result.stderr
    same_run(tmp_path, uninterrupted[0])


@pytest.mark.slow
def test_a_compiled_run_that_stops_early_resumes_bit_for_bit(tmp_path):
    """With the default settings, whose programs are then already compiled, on disk."""
    assert run(tmp_path / "whole", "--epochs", "2").returncode == 0
    assert run(tmp_path / "parts", "--epochs", "1").returncode == 0
    assert run(tmp_path / "parts", "--epochs", "2", "--resume").returncode == 0
    same_run(tmp_path / "parts", tmp_path / "whole")


def json_header(path):
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


def test_resuming_a_finished_run_changes_nothing(main, uninterrupted, tmp_path):
    for name in ("checkpoint.safetensors", "metrics.jsonl"):
        (tmp_path / name).write_bytes((uninterrupted[0] / name).read_bytes())
    main(["--out", str(tmp_path), "--resume", *SHORT])
    same_run(tmp_path, uninterrupted[0])


def test_a_new_run_keeps_the_checkpoint_before_it(main, uninterrupted, tmp_path):
    before = (uninterrupted[0] / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(before)
    main(["--out", str(tmp_path), *SHORT, "--seed", "1", "--epochs", "1"])
    assert (tmp_path / "previous.safetensors").read_bytes() == before
    assert (tmp_path / "checkpoint.safetensors").read_bytes() != before


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_other_optimizers_learn_too(main, tmp_path, optimizer):
    main(["--out", str(tmp_path), *SHORT, "--optimizer", optimizer])
    assert history(tmp_path)[-1]["test_accuracy"] > 0.6


def write_folder(root, classes=("cat", "dog"), parts=("train", "test"), size=(12, 12)):
    generator = torch.Generator().manual_seed(0)
    for part in parts:
        for shade, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for index in range(6):
                pixels = torch.randint(0, 60, (size[1], size[0], 3), generator=generator)
                image = Image.fromarray((pixels + 150 * shade).to(torch.uint8).numpy())
                image.save(root / part / name / f"{index}.png")
    return root


FOLDER = ("--dataset", "folder", "--no-jit", "--epochs", "2", "--batch-size", "4")


def test_a_folder_of_images(main, tmp_path):
    root = write_folder(tmp_path / "images")
    main(["--out", str(tmp_path / "out"), *FOLDER, "--root", str(root)])
    assert history(tmp_path / "out")[-1]["test_accuracy"] > 0.5


def test_names_of_classes_are_no_formulas(main, tmp_path):
    """Matplotlib typesets what is between two dollars, and refuses what it does not know."""
    root = write_folder(tmp_path / "images", classes=("$\\cat$", "$dog_$"))
    options = ("--model", "mlp", "--epochs", "1", "--lr", "0")
    main(["--out", str(tmp_path / "out"), *FOLDER, "--root", str(root), *options])
    assert (tmp_path / "out" / "mistakes.png").exists()
    assert (tmp_path / "out" / "confusion.png").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "resnet18"),
        ("--model", "vit", "--precision", "bfloat16"),
        ("--model", "cnn", "--optimizer", "sgd", "--schedule", "cosine", "--ema", "0.5"),
    ],
    ids=["resnet18", "vit", "cnn"],
)
def test_every_network_takes_steps(main, tmp_path, options):
    root = write_folder(tmp_path / "images")
    out = tmp_path / "out"
    main(["--out", str(out), *FOLDER, "--root", str(root), *options])
    assert len(history(out)) == 2
    assert all(0 <= epoch["test_accuracy"] <= 1 for epoch in history(out))


def test_a_resnet_hands_on_its_statistics(main, tmp_path):
    root = write_folder(tmp_path / "images")
    main(["--out", str(tmp_path / "out"), *FOLDER, "--root", str(root), "--model", "resnet18"])
    held = load_file(tmp_path / "out" / "checkpoint.safetensors")
    counts = [value for name, value in held.items() if name.endswith("num_batches_tracked")]
    assert [int(count) for count in counts] == [6] * 20  # two epochs of three steps


EVERYTHING = (
    *("--augment", "crop", "resized-crop", "flip", "rotate", "color", "cutout", "erase"),
    *("rand-augment", "trivial-augment", "mixup", "cutmix"),
    *("--ema", "0.9", "--accumulate", "2", "--schedule", "cosine", "--precision", "bfloat16"),
)


def test_a_run_with_everything_resumes_bit_for_bit(main, tmp_path):
    """Accumulation stops halfway: an epoch has three batches, a step two."""
    root = write_folder(tmp_path / "images")
    options = (*FOLDER[:-4], "--batch-size", "4", "--root", str(root), *EVERYTHING)
    main(["--out", str(tmp_path / "whole"), *options, "--epochs", "3"])
    assert (tmp_path / "whole" / "augmented.png").stat().st_size > 1000
    unfinished = InterruptedError("the power went out")
    module = importlib.import_module("image_classifier")
    save = module.save_run

    def save_once(path, settings, run, history):
        save(path, settings, run, history)
        raise unfinished

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "save_run", save_once)
        with pytest.raises(SystemExit):
            main(["--out", str(tmp_path / "parts"), *options, "--epochs", "3"])
    main(["--out", str(tmp_path / "parts"), *options, "--epochs", "3", "--resume"])
    same_run(tmp_path / "parts", tmp_path / "whole")


def test_augmentation_averaging_and_accumulation_change_the_run(main, tmp_path):
    root = write_folder(tmp_path / "images")
    losses = set()
    for number, options in enumerate(
        [(), ("--augment", "mixup"), ("--ema", "0.9"), ("--accumulate", "2")]
    ):
        out = tmp_path / str(number)
        main(["--out", str(out), *FOLDER, "--root", str(root), "--epochs", "1", *options])
        losses.add(history(out)[-1]["test_loss"])
    assert len(losses) == 4


def test_workers_change_nothing(main, tmp_path):
    root = write_folder(tmp_path / "images")
    for workers in ("1", "2"):
        out = tmp_path / workers
        options = ("--root", str(root), "--image-size", "12", "--workers", workers)
        main(["--out", str(out), *FOLDER, *options, "--augment", "flip"])
        assert len(history(out)) == 2
    same_run(tmp_path / "1", tmp_path / "2")


def test_a_file_that_a_worker_cannot_read_is_named(refused, tmp_path):
    root = write_folder(tmp_path / "images")
    (root / "train" / "cat" / "3.png").write_bytes(b"not an image")
    options = ("--root", str(root), "--image-size", "12", "--workers", "1")
    assert str(Path("train", "cat", "3.png")) in refused(tmp_path / "out", *FOLDER, *options)


def test_pretrained_weights_are_fine_tuned(main, monkeypatch, tmp_path):
    """From a file made here, which the table of published weights is told of."""
    published = models.published_weights("resnet18")
    network, weights = models.resnet18(), tmp_path / "weights"
    params, state = network.init(random.key(0), torch.zeros(1, 3, 32, 32))
    weights.mkdir()
    torch.save(
        {**tree.to_state_dict(params), **tree.to_state_dict(state)}, weights / published.file
    )
    digest = hashlib.sha256((weights / published.file).read_bytes()).hexdigest()
    renamed = dataclasses.replace(published, file=f"resnet18-{digest[:8]}.pth", crop_size=32)
    (weights / published.file).rename(weights / renamed.file)
    table = importlib.import_module("purefn.functional.models.published")
    monkeypatch.setattr(table, "PUBLISHED", {"resnet18": {"IMAGENET1K_V1": renamed}})
    root = write_folder(tmp_path / "images")
    options = ("--root", str(root), "--model", "resnet18", "--pretrained", "--weights")
    rate = ("--lr", "1e-8", "--epochs", "1")
    main(["--out", str(tmp_path / "out"), *FOLDER, *options, str(weights), *rate])
    held = load_file(tmp_path / "out" / "checkpoint.safetensors")
    torch.testing.assert_close(
        held["params.layer4.1.conv2.weight"],
        params["layer4"]["1"]["conv2"]["weight"],
        rtol=0,
        atol=1e-6,
    )
    assert held["params.fc.weight"].shape == (2, 512)


def test_weights_that_are_damaged_are_refused_in_one_line(refused, tmp_path):
    root, weights = write_folder(tmp_path / "images"), tmp_path / "weights"
    weights.mkdir()
    (weights / models.published_weights("resnet18").file).write_bytes(b"no weights")
    options = ("--root", str(root), "--model", "resnet18", "--pretrained", "--weights")
    assert "is damaged" in refused(tmp_path / "out", *FOLDER, *options, str(weights))


def test_data_that_cannot_be_fetched_are_refused_in_one_line(refused, monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise RuntimeError("mnist: no readable files")

    monkeypatch.setattr(importlib.import_module("purefn.data"), "mnist", unreachable)
    assert "mnist: no readable files" in refused(tmp_path, "--dataset", "mnist")


def test_images_too_small_for_the_vit_are_refused(refused, tmp_path):
    root = write_folder(tmp_path / "images", size=(1, 1))
    message = refused(tmp_path / "out", *FOLDER, "--root", str(root), "--model", "vit")
    assert "at least 2 x 2, got 1 x 1" in message


def test_a_run_does_not_go_on_with_another_normalization(main, refused, tmp_path):
    """With workers that of photographs, and else that of the images themselves."""
    root = write_folder(tmp_path / "images")
    options = (*FOLDER, "--root", str(root), "--image-size", "12", "--model", "mlp")
    main(["--out", str(tmp_path / "out"), *options, "--epochs", "1"])
    more = ("--epochs", "2", "--resume", "--workers", "1")
    assert "with_workers=False, not True" in refused(tmp_path / "out", *options, *more)


def test_bad_folders_are_refused(refused, tmp_path):
    options = (*FOLDER, "--root")
    assert "--root" in refused(tmp_path / "out", *FOLDER)
    assert "nowhere" in refused(tmp_path / "out", *options, str(tmp_path / "nowhere"))
    one = write_folder(tmp_path / "one", classes=("cat",))
    assert "class" in refused(tmp_path / "out", *options, str(one))
    torn = write_folder(tmp_path / "torn")
    (torn / "train" / "cat" / "3.png").write_bytes(b"not an image")
    assert str(Path("train", "cat", "3.png")) in refused(tmp_path / "out", *options, str(torn))
    uneven = write_folder(tmp_path / "uneven")
    Image.new("RGB", (5, 7)).save(uneven / "test" / "dog" / "0.png")
    message = refused(tmp_path / "out", *options, str(uneven))
    assert "size" in message
    only_train = write_folder(tmp_path / "only", parts=("train",))
    assert "test" in refused(tmp_path / "out", *options, str(only_train))


def test_bad_settings_are_refused_before_training(refused, tmp_path):
    assert "teapot" in refused(tmp_path, *SHORT, "--device", "teapot")
    assert "batch_size" in refused(tmp_path, *SHORT, "--batch-size", "5000")
    assert "--epochs" in refused(tmp_path, *SHORT, "--epochs", "0")
    assert "--batch-size" in refused(tmp_path, *SHORT, "--batch-size", "0")
    assert "--device meta" in refused(tmp_path, *SHORT, "--device", "meta")
    assert "--image-size" in refused(tmp_path, *SHORT, "--image-size", "3")
    assert "--root" in refused(tmp_path, *SHORT, "--root", "somewhere")
    assert "lr" in refused(tmp_path, *SHORT, "--lr", "-1")
    assert "--accumulate" in refused(tmp_path, *SHORT, "--accumulate", "0")
    assert "--workers" in refused(tmp_path, *SHORT, "--workers", "2")
    assert "--workers" in refused(tmp_path, *SHORT, "--workers", "-1")
    assert "--weights" in refused(tmp_path, *SHORT, "--weights", "somewhere")
    assert "--pretrained" in refused(tmp_path, *SHORT, "--pretrained")
    assert "decay" in refused(tmp_path, *SHORT, "--ema", "1.5")
    assert "only 20 batches" in refused(tmp_path, *SHORT, "--accumulate", "21")
    options = ("--dataset", "folder", "--root", "somewhere", "--workers", "1")
    assert "--image-size" in refused(tmp_path, *options)
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in refused(tmp_path / "file", *SHORT)


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(refused, uninterrupted, tmp_path):
    """A learning rate of 1e38 overflows at once; the checkpoint of the run before stays."""
    before = (uninterrupted[0] / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(before)
    message = refused(tmp_path, *SHORT, "--optimizer", "sgd", "--lr", "1e38")
    assert "the loss is nan at step" in message
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert (tmp_path / "previous.safetensors").read_bytes() == before


def test_parameters_that_are_no_numbers_are_never_saved(refused, tmp_path):
    """One step an epoch: its loss is finite, and what comes of it is not."""
    options = ("--optimizer", "sgd", "--lr", "1e38", "--batch-size", "1000")
    message = refused(tmp_path, *SHORT, *options)
    assert "no use after epoch 1" in message
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_metrics_are_restored_from_the_checkpoint(main, uninterrupted, tmp_path):
    content = (uninterrupted[0] / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    main(["--out", str(tmp_path), "--resume", *SHORT, "--lr", "0.001"])
    same_run(tmp_path, uninterrupted[0])


def test_checkpoints_that_do_not_fit_are_refused(refused, uninterrupted, tmp_path):
    content = (uninterrupted[0] / "checkpoint.safetensors").read_bytes()
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    assert "model=mlp, not cnn" in refused(tmp_path, *SHORT, "--resume", "--model", "cnn")
    assert "seed=0, not 1" in refused(tmp_path, *SHORT, "--resume", "--seed", "1")
    assert "ema=None, not 0.9" in refused(tmp_path, *SHORT, "--resume", "--ema", "0.9")
    path.write_bytes(content[: len(content) // 2])
    assert "damaged" in refused(tmp_path, *SHORT, "--resume")
    assert path.read_bytes() == content[: len(content) // 2]
