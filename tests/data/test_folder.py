"""Real image files, written with Pillow, loaded through the public function."""

import shutil
import sys

import numpy as np
import pytest
import torch

from purefn import data
from purefn.functional import random


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def save(pillow):
    """Give a function that writes an array as an image file, and returns the array."""

    def save(file, array, **options):
        file.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(array).save(file, **options)
        return array

    return save


@pytest.fixture
def stated(save, tmp_path):
    """Write `train/` and `test/` with two classes of colour images, 4 x 6 pixels."""
    return tmp_path, {
        name: save(tmp_path / name, pixels(seed, 4, 6, 3))
        for seed, name in enumerate(
            [
                "train/cat/b.png",
                "train/cat/a.png",
                "train/cat/10.PNG",
                "train/ant/x.bmp",
                "test/ant/y.ppm",
                "test/cat/z.png",
            ]
        )
    }


@pytest.fixture
def unsplit(save, tmp_path):
    """Write ten images of class `a` and five of class `b`, all different."""
    for seed in range(15):
        folder = "a" if seed < 10 else "b"
        save(tmp_path / folder / f"{seed:02}.png", np.full((2, 2), seed, dtype=np.uint8))
    return tmp_path


def assert_holds(ds, arrays, labels):
    expected = np.stack([array.transpose(2, 0, 1) for array in arrays]) / 255
    assert ds.images.dtype == torch.float32
    assert ds.images.is_contiguous()
    np.testing.assert_allclose(ds.images.numpy(), expected, rtol=1e-7)
    assert ds.labels.tolist() == labels


def test_train_and_test_folders(stated):
    root, arrays = stated
    train, test = data.image_folder(root)
    order = ["train/ant/x.bmp", "train/cat/10.PNG", "train/cat/a.png", "train/cat/b.png"]
    assert_holds(train, [arrays[name] for name in order], [0, 1, 1, 1])
    assert_holds(test, [arrays["test/ant/y.ppm"], arrays["test/cat/z.png"]], [0, 1])
    assert train.classes == test.classes == ("ant", "cat")


def test_the_classes_and_files_are_torchvisions(stated, torchvision):
    root, _ = stated
    for part, ds in zip(("train", "test"), data.image_folder(root), strict=True):
        reference = torchvision.datasets.ImageFolder(root / part)
        assert ds.classes == tuple(reference.classes)
        assert len(ds) == len(reference)
        for row, (image, label) in enumerate(reference):
            expected = torchvision.transforms.functional.pil_to_tensor(image) / 255
            torch.testing.assert_close(ds.images[row], expected, rtol=0, atol=1e-7)
            assert ds.labels[row] == label


def test_hidden_files_and_litter_are_passed_over(stated):
    root, _ = stated
    for name in ("train/.DS_Store", "train/cat/.hidden.png", "test/cat/Thumbs.db", "desktop.ini"):
        (root / name).write_text("no image")
    assert [len(ds) for ds in data.image_folder(root)] == [4, 2]


def values(ds):
    """Return what identifies the constant images of `unsplit`."""
    return (ds.images[:, 0, 0, 0] * 255).round().int().tolist()


def test_a_keyed_split_takes_its_part_of_each_class(unsplit):
    train, test = data.image_folder(unsplit, test_fraction=0.2, key=random.key(0))
    assert test.labels.tolist() == [0, 0, 1]
    assert sorted(values(train) + values(test)) == list(range(15))
    for ds in (train, test):
        assert values(ds) == sorted(values(ds))
        assert ds.labels.tolist() == [int(value >= 10) for value in values(ds)]
        assert ds.classes == ("a", "b")


def test_a_keyed_split_depends_on_the_key_alone(unsplit):
    def chosen(seed):
        _, test = data.image_folder(unsplit, test_fraction=0.4, key=random.key(seed))
        return values(test)

    assert chosen(1) == chosen(1)
    assert len({tuple(chosen(seed)) for seed in range(5)}) > 1


def test_a_keyed_split_is_that_of_the_stated_permutation(unsplit):
    key = random.key(7)
    _, test = data.image_folder(unsplit, test_fraction=0.4, key=key)
    in_a = random.permutation(random.fold_in(key, 0), 10)[:4].tolist()
    in_b = random.permutation(random.fold_in(key, 1), 5)[:2].tolist()
    assert values(test) == sorted(in_a) + sorted(10 + row for row in in_b)


def test_every_class_has_at_least_one_test_image(unsplit):
    _, test = data.image_folder(unsplit, test_fraction=0.01, key=random.key(0))
    assert test.labels.tolist() == [0, 1]


def one_image_a_class(save, root, array, **options):
    for part in ("train", "test"):
        for name in ("a", "b"):
            save(root / part / name / "1.png", array, **options)


def test_grey_images_become_rgb_or_stay_grey(save, tmp_path):
    grey = pixels(0, 4, 6)
    one_image_a_class(save, tmp_path, grey)
    train, _ = data.image_folder(tmp_path)
    assert_holds(train, [np.stack([grey] * 3, axis=-1)] * 2, [0, 1])
    train, _ = data.image_folder(tmp_path, mode="L")
    assert_holds(train, [grey[:, :, None]] * 2, [0, 1])


def test_colour_becomes_its_luma(save, tmp_path):
    colour = pixels(0, 4, 6, 3)
    one_image_a_class(save, tmp_path, colour)
    train, _ = data.image_folder(tmp_path, mode="L")
    luma = colour @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(train.images[0, 0].numpy(), luma, atol=1 / 255)


def test_an_opaque_alpha_channel_is_left_out(save, tmp_path):
    colour = pixels(0, 4, 6, 3)
    opaque = np.concatenate([colour, np.full((4, 6, 1), 255, dtype=np.uint8)], axis=-1)
    one_image_a_class(save, tmp_path, opaque)
    assert_holds(data.image_folder(tmp_path)[0], [colour] * 2, [0, 1])


def test_a_photograph_is_turned_upright(save, pillow, tmp_path):
    colour = pixels(0, 4, 6, 3)
    exif = pillow.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 270 degrees, counter-clockwise
    one_image_a_class(save, tmp_path, colour, exif=exif)
    assert_holds(data.image_folder(tmp_path)[0], [np.rot90(colour, 3)] * 2, [0, 1])


@pytest.mark.parametrize(("size", "shape"), [(8, (8, 8)), ((3, 5), (3, 5)), ([3, 5], (3, 5))])
def test_images_are_brought_to_one_size(save, tmp_path, size, shape):
    one_image_a_class(save, tmp_path, np.full((4, 6, 3), (10, 20, 30), dtype=np.uint8))
    save(tmp_path / "train" / "a" / "2.png", np.full((9, 2, 3), (10, 20, 30), dtype=np.uint8))
    for ds in data.image_folder(tmp_path, size=size):
        expected = torch.tensor([10, 20, 30])[:, None, None].expand(3, *shape) / 255
        for image in ds.images:
            torch.testing.assert_close(image, expected, rtol=0, atol=1e-7)


def test_resizing_is_torchvisions(save, tmp_path, torchvision, pillow):
    colour = pixels(3, 12, 20, 3)
    one_image_a_class(save, tmp_path, colour)
    train, _ = data.image_folder(tmp_path, size=(5, 7))
    resized = torchvision.transforms.Resize((5, 7))(pillow.fromarray(colour))
    assert_holds(train, [np.asarray(resized)] * 2, [0, 1])


def refuses(error, message, root, **options):
    with pytest.raises(error, match=message):
        data.image_folder(root, **options)


def test_a_missing_folder_is_refused(tmp_path):
    refuses(FileNotFoundError, "nowhere is not a folder", tmp_path / "nowhere")


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    refuses(FileNotFoundError, "file is not a folder", tmp_path / "file")


@pytest.mark.parametrize(("present", "missing"), [("train", "test"), ("test", "train")])
def test_one_part_without_the_other_is_refused(save, tmp_path, present, missing):
    save(tmp_path / present / "a" / "1.png", pixels(0, 2, 2))
    refuses(ValueError, f"has {present}/ but no {missing}/", tmp_path)
    refuses(
        ValueError,
        f"has {present}/ but no {missing}/",
        tmp_path,
        test_fraction=0.5,
        key=random.key(0),
    )


def test_an_unstated_split_is_refused(unsplit):
    message = "state a split with both test_fraction= and key="
    refuses(ValueError, message, unsplit)
    refuses(ValueError, message, unsplit, test_fraction=0.5)
    refuses(ValueError, message, unsplit, key=random.key(0))


def test_two_stated_splits_are_refused(stated):
    root, _ = stated
    refuses(ValueError, "which state the split", root, test_fraction=0.5, key=random.key(0))
    refuses(ValueError, "which state the split", root, key=random.key(0))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 2, float("nan")])
def test_a_fraction_outside_of_0_to_1_is_refused(unsplit, fraction):
    refuses(
        ValueError,
        "expected test_fraction between 0 and 1",
        unsplit,
        test_fraction=fraction,
        key=random.key(0),
    )


def test_a_split_that_leaves_nothing_to_train_on_is_refused(unsplit):
    message = "no image of class 'b' to train on: .*b has 5"
    refuses(ValueError, message, unsplit, test_fraction=0.91, key=random.key(0))


def test_classes_that_differ_are_refused(save, stated):
    root, _ = stated
    save(root / "train" / "bee" / "1.png", pixels(0, 4, 6, 3))
    save(root / "test" / "cow" / "1.png", pixels(0, 4, 6, 3))
    refuses(ValueError, r"only in train/ \['bee'\], only in test/ \['cow'\]", root)


def test_a_single_class_is_refused(save, tmp_path):
    for part in ("train", "test"):
        save(tmp_path / part / "cat" / "1.png", pixels(0, 2, 2))
    refuses(ValueError, r"at least two classes in .*train, found \['cat'\]", tmp_path)


def test_folders_without_classes_are_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    refuses(ValueError, r"at least two classes in .*train, found \[\]", tmp_path)


def test_a_class_without_images_is_refused(stated):
    root, _ = stated
    for part in ("train", "test"):
        (root / part / "bee").mkdir()
    refuses(ValueError, r"class folder .*bee has no images", root)


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_an_unreadable_image_is_named(stated, cut):
    root, _ = stated
    file = root / "train" / "cat" / "b.png"
    file.write_bytes(file.read_bytes()[:cut])
    refuses(ValueError, r"cannot read the image .*b\.png", root)


def test_what_is_no_image_is_named(stated):
    root, _ = stated
    (root / "test" / "cat" / "notes.txt").write_text("")
    refuses(ValueError, r"notes\.txt is not an image file", root)


def test_a_folder_in_a_class_is_named(stated):
    root, _ = stated
    (root / "test" / "cat" / "more.png").mkdir()
    refuses(ValueError, r"more\.png is not an image file", root)


def test_an_image_outside_of_the_classes_is_named(save, stated):
    root, _ = stated
    save(root / "train" / "lost.png", pixels(0, 4, 6, 3))
    refuses(ValueError, r"lost\.png lies beside the class folders", root)


@pytest.mark.parametrize("name", ["train/notes.txt", "test/z.heic"])
def test_any_file_beside_the_classes_is_named(stated, name):
    root, _ = stated
    (root / name).write_text("")
    refuses(ValueError, rf"{name} lies beside the class folders", root)


def test_what_lies_beside_train_and_test_is_named(save, stated):
    root, _ = stated
    save(root / "stray.png", pixels(0, 4, 6, 3))
    refuses(ValueError, r"stray\.png lies beside train/ and test/", root)
    (root / "stray.png").unlink()
    save(root / "val" / "cat" / "1.png", pixels(0, 4, 6, 3))
    refuses(ValueError, r"val lies beside train/ and test/", root)


@pytest.mark.parametrize("link", ["test", "test/cat", "test/cat/a.png"])
def test_a_file_of_both_parts_is_named(stated, link):
    root, _ = stated
    place = root / link
    if place.is_dir():
        shutil.rmtree(place)
    place.symlink_to(root / link.replace("test", "train"))
    refuses(ValueError, r"train/\w+/\S+ and \S+/test/\w+/\S+ are the same file", root)


def test_one_folder_under_the_names_of_two_classes_is_refused(unsplit):
    (unsplit / "c").symlink_to(unsplit / "a")
    message = r"a/\d+\.png and \S+c/\d+\.png are the same file"
    refuses(ValueError, message, unsplit, test_fraction=0.2, key=random.key(0))


@pytest.mark.parametrize("fraction", ["0.3", True])
def test_a_fraction_that_is_no_number_is_refused(unsplit, fraction):
    message = "expected test_fraction to be a number, got"
    refuses(TypeError, message, unsplit, test_fraction=fraction, key=random.key(0))


def test_sizes_that_differ_are_named(save, stated):
    root, _ = stated
    save(root / "test" / "cat" / "z.png", pixels(0, 6, 4, 3))
    refuses(ValueError, r"x\.bmp is 4 x 6, .*z\.png is 6 x 4\. Pass size=", root)


def test_transparent_pixels_are_refused(save, stated):
    root, _ = stated
    save(root / "test" / "cat" / "z.png", pixels(0, 4, 6, 4))
    refuses(ValueError, r"z\.png has transparent pixels", root)


@pytest.mark.parametrize(
    ("name", "dtype"), [("z.png", "uint16"), ("z.tif", "int32"), ("z.tif", "float32")]
)
def test_more_than_eight_bits_are_refused(save, stated, name, dtype):
    root, _ = stated
    save(root / "test" / "cat" / name, np.full((4, 6), 40000, dtype=dtype))
    refuses(ValueError, f"{name} has more than 8 bits", root)


def test_a_film_is_refused(pillow, stated):
    root, _ = stated
    frames = [pillow.fromarray(pixels(seed, 4, 6)) for seed in range(3)]
    frames[0].save(root / "test" / "cat" / "film.gif", save_all=True, append_images=frames[1:])
    refuses(ValueError, r"film\.gif has 3 frames", root)


@pytest.mark.parametrize("size", [0, -1, (3,), (3, 0), (3, 4, 5), 2.5, "8", True, (3, True)])
def test_an_impossible_size_is_refused(stated, size):
    refuses(ValueError, "expected size to be a positive int or", stated[0], size=size)


@pytest.mark.parametrize("mode", ["rgb", "RGBA", None])
def test_an_unknown_mode_is_refused(stated, mode):
    refuses(ValueError, "expected mode 'L' or 'RGB'", stated[0], mode=mode)


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    for module in ("PIL", "PIL.Image", "PIL.ImageOps"):
        monkeypatch.setitem(sys.modules, module, None)
    refuses(ImportError, r'Pillow is not.*pip install "purefn\[vision\]"', tmp_path)
