"""Activations."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("identity", nn.identity, torch.nn.Identity(), (4, 5)),
    Case("relu", nn.relu, torch.nn.ReLU(), (4, 5)),
    Case("relu6", nn.relu6, torch.nn.ReLU6(), (4, 5), scale=5.0),
    Case("leaky_relu", nn.leaky_relu, torch.nn.LeakyReLU(), (4, 5)),
    Case(
        "leaky_relu",
        lambda x: nn.leaky_relu(x, 0.3),
        torch.nn.LeakyReLU(0.3),
        (4, 5),
        variant="slope",
    ),
    Case("elu", nn.elu, torch.nn.ELU(), (4, 5)),
    Case("elu", lambda x: nn.elu(x, 2.0), torch.nn.ELU(2.0), (4, 5), variant="alpha"),
    Case("celu", lambda x: nn.celu(x, 2.0), torch.nn.CELU(2.0), (4, 5)),
    Case("selu", nn.selu, torch.nn.SELU(), (4, 5)),
    Case("gelu", nn.gelu, torch.nn.GELU(), (4, 5)),
    Case("gelu", lambda x: nn.gelu(x, "tanh"), torch.nn.GELU("tanh"), (4, 5), variant="tanh"),
    Case("silu", nn.silu, torch.nn.SiLU(), (4, 5)),
    Case("mish", nn.mish, torch.nn.Mish(), (4, 5)),
    Case("softplus", nn.softplus, torch.nn.Softplus(), (4, 5)),
    Case(
        "softplus",
        lambda x: nn.softplus(x, 3.0, 1.0),
        torch.nn.Softplus(3.0, 1.0),
        (4, 5),
        variant="b",
    ),
    Case("softsign", nn.softsign, torch.nn.Softsign(), (4, 5)),
    Case("tanh", nn.tanh, torch.nn.Tanh(), (4, 5)),
    Case("sigmoid", nn.sigmoid, torch.nn.Sigmoid(), (4, 5)),
    Case("log_sigmoid", nn.log_sigmoid, torch.nn.LogSigmoid(), (4, 5)),
    Case("hardtanh", lambda x: nn.hardtanh(x, -0.5, 0.2), torch.nn.Hardtanh(-0.5, 0.2), (4, 5)),
    Case("hardsigmoid", nn.hardsigmoid, torch.nn.Hardsigmoid(), (4, 5)),
    Case("hardswish", nn.hardswish, torch.nn.Hardswish(), (4, 5)),
    Case("softmax", nn.softmax, torch.nn.Softmax(dim=-1), (4, 5)),
    Case("log_softmax", nn.log_softmax, torch.nn.LogSoftmax(dim=-1), (4, 5)),
    Case(
        "log_softmax",
        lambda x: nn.log_softmax(x, 0),
        torch.nn.LogSoftmax(dim=0),
        (4, 5),
        variant="0",
    ),
    Case("softmin", nn.softmin, torch.nn.Softmin(dim=-1), (4, 5)),
    Case("softmin", lambda x: nn.softmin(x, 1), torch.nn.Softmin(dim=1), (3, 4, 5), variant="1"),
    Case("softmax2d", nn.softmax2d, torch.nn.Softmax2d(), (2, 3, 4, 5)),
    Case("glu", nn.glu, torch.nn.GLU(), (4, 6)),
    Case("glu", lambda x: nn.glu(x, 1), torch.nn.GLU(1), (3, 4, 5), variant="1"),
    Case("threshold", lambda x: nn.threshold(x, 0.3, -2.0), torch.nn.Threshold(0.3, -2.0), (4, 5)),
    Case("hardshrink", nn.hardshrink, torch.nn.Hardshrink(), (4, 5)),
    Case(
        "hardshrink",
        lambda x: nn.hardshrink(x, 0.2),
        torch.nn.Hardshrink(0.2),
        (4, 5),
        variant="lambd",
    ),
    Case("softshrink", nn.softshrink, torch.nn.Softshrink(), (4, 5)),
    Case(
        "softshrink",
        lambda x: nn.softshrink(x, 0.2),
        torch.nn.Softshrink(0.2),
        (4, 5),
        variant="lambd",
    ),
    Case("tanhshrink", nn.tanhshrink, torch.nn.Tanhshrink(), (4, 5)),
]
