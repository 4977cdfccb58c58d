"""Pooling that remembers or draws its places."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name

from purefn.functional import nn

from .case import Case

_SHAPES = {1: (2, 3, 9), 2: (2, 3, 7, 6), 3: (2, 2, 5, 6, 5)}


class Scaled(torch.nn.Module):
    """Values times the places they come from, so that both are seen."""

    def forward(self, pair):
        return scaled(pair)


class Unpool1d(torch.nn.MaxUnpool1d):
    def forward(self, pair):
        return super().forward(*pair)


class Unpool2d(torch.nn.MaxUnpool2d):
    def forward(self, pair):
        return super().forward(*pair)


class Unpool3d(torch.nn.MaxUnpool3d):
    def forward(self, pair):
        return super().forward(*pair)


class Fractional2d(torch.nn.FractionalMaxPool2d):
    """torch's with the places in the middle, which it has no way to ask for."""

    def forward(self, x):
        middle = x.new_full((*x.shape[:2], 2), 0.5)
        options = self.kernel_size, self.output_size, self.output_ratio
        return F.fractional_max_pool2d(x, *options, _random_samples=middle)


class Fractional3d(torch.nn.FractionalMaxPool3d):
    def forward(self, x):
        middle = x.new_full((*x.shape[:2], 3), 0.5)
        options = self.kernel_size, self.output_size, self.output_ratio
        return F.fractional_max_pool3d(x, *options, _random_samples=middle)


def scaled(pair):
    values, indices = pair
    return values * (1 + indices)


_UNPOOL = {1: Unpool1d, 2: Unpool2d, 3: Unpool3d}
_POOL = {1: torch.nn.MaxPool1d, 2: torch.nn.MaxPool2d, 3: torch.nn.MaxPool3d}
_FRACTIONAL = {2: Fractional2d, 3: Fractional3d}


def _ours(name, dims, *options, **named):
    return getattr(nn, name.format(dims))(*options, **named)


CASES = [
    *(
        Case(
            f"max_pool{dims}d_with_indices",
            nn.serial(_ours("max_pool{}d_with_indices", dims, 3, 2, 1), scaled),
            torch.nn.Sequential(_POOL[dims](3, 2, 1, return_indices=True), Scaled()),
            shape,
        )
        for dims, shape in _SHAPES.items()
    ),
    *(
        Case(
            f"max_unpool{dims}d",
            nn.serial(
                _ours("max_pool{}d_with_indices", dims, 2),
                _ours("max_unpool{}d", dims, 2),
            ),
            torch.nn.Sequential(_POOL[dims](2, return_indices=True), _UNPOOL[dims](2)),
            (*shape[:2], *(length // 2 * 2 for length in shape[2:])),
        )
        for dims, shape in _SHAPES.items()
    ),
    *(
        Case(
            f"fractional_max_pool{dims}d",
            _ours("fractional_max_pool{}d", dims, 2, output_size=3),
            _FRACTIONAL[dims](2, output_size=3),
            _SHAPES[dims],
            draws=True,
        )
        for dims in _FRACTIONAL
    ),
    Case(
        "fractional_max_pool2d",
        nn.fractional_max_pool2d((1, 3), output_ratio=(0.7, 0.5)),
        Fractional2d((1, 3), output_ratio=(0.7, 0.5)),
        _SHAPES[2],
        draws=True,
        variant="ratio",
    ),
]
