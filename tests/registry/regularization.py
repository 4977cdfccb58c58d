"""Layers that drop parts of their input."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("dropout", nn.dropout(0.4), torch.nn.Dropout(0.4), (20, 30), draws=True),
    Case("dropout1d", nn.dropout1d(0.4), torch.nn.Dropout1d(0.4), (5, 6, 3), draws=True),
    Case("dropout2d", nn.dropout2d(0.4), torch.nn.Dropout2d(0.4), (5, 6, 3, 2), draws=True),
    Case("dropout3d", nn.dropout3d(0.4), torch.nn.Dropout3d(0.4), (5, 6, 3, 2, 2), draws=True),
    Case("alpha_dropout", nn.alpha_dropout(0.4), torch.nn.AlphaDropout(0.4), (20, 30), draws=True),
    Case(
        "feature_alpha_dropout",
        nn.feature_alpha_dropout(0.4),
        torch.nn.FeatureAlphaDropout(0.4),
        (5, 6, 3),
        draws=True,
    ),
    Case("drop_path", nn.drop_path(0.4), torch.nn.Identity(), (8, 3), draws=True),
    Case(
        "drop_path",
        nn.drop_path(0.4, "batch"),
        torch.nn.Identity(),
        (8, 3),
        draws=True,
        variant="batch",
    ),
]
