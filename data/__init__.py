"""Data sets as `(train, test)` pairs of tensors, deterministic batches, checkpoints."""

from . import augmentation
from .batching import Batches, batches
from .characters import Text, decode, encode, python_manual, text, text_windows
from .checkpoints import load_checkpoint, save_checkpoint, write_whole
from .dataset import Dataset, check_dataset
from .downloaded import cache_folder, cifar10, cifar100, fashion_mnist, mnist
from .embedded import digits
from .extras import import_pillow, import_torchvision
from .folder import ImageFiles, image_files, image_folder
from .normalization import STATISTICS, Statistics, channel_statistics, normalize
from .poisson import PoissonBatches, poisson_batches
from .workers import ReadBatches, read_batches

__all__ = [
    "STATISTICS",
    "Batches",
    "Dataset",
    "ImageFiles",
    "PoissonBatches",
    "ReadBatches",
    "Statistics",
    "Text",
    "augmentation",
    "batches",
    "cache_folder",
    "channel_statistics",
    "check_dataset",
    "cifar10",
    "cifar100",
    "decode",
    "digits",
    "encode",
    "fashion_mnist",
    "image_files",
    "image_folder",
    "import_pillow",
    "import_torchvision",
    "load_checkpoint",
    "mnist",
    "normalize",
    "poisson_batches",
    "python_manual",
    "read_batches",
    "save_checkpoint",
    "text",
    "text_windows",
    "write_whole",
]
