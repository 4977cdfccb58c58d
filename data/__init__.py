"""Data sets as `(train, test)` pairs of tensors, deterministic batches, checkpoints."""

from .batching import Batches, batches
from .checkpoints import load_checkpoint, save_checkpoint, write_whole
from .dataset import Dataset, check_dataset
from .downloaded import cache_folder, cifar10, cifar100, fashion_mnist, mnist
from .embedded import digits
from .extras import import_pillow, import_torchvision
from .folder import image_folder
from .normalization import STATISTICS, Statistics, channel_statistics, normalize
from .poisson import PoissonBatches, poisson_batches

__all__ = [
    "STATISTICS",
    "Batches",
    "Dataset",
    "PoissonBatches",
    "Statistics",
    "batches",
    "cache_folder",
    "channel_statistics",
    "check_dataset",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "image_folder",
    "import_pillow",
    "import_torchvision",
    "load_checkpoint",
    "mnist",
    "normalize",
    "poisson_batches",
    "save_checkpoint",
    "write_whole",
]
