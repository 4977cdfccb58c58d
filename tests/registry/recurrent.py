"""Recurrent networks and their cells."""

import torch

from purefn.functional import nn

from .case import Case


class First(torch.nn.Module):
    def forward(self, outputs):
        return outputs[0]


def first(outputs):
    return outputs[0]


def case(name, shape, variant="", draws=False, **options):
    """The first output of a layer, beside that of the torch module with the same options."""
    kind = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU", "lstm_cell": "LSTMCell"}[name]
    layout = {} if name.endswith("cell") else {"batch_first": True}
    module = getattr(torch.nn, kind)(shape[-1], 5, **layout, **options)
    return Case(
        name,
        nn.serial(getattr(nn, name)(5, **options), first),
        torch.nn.Sequential(module, First()),
        shape,
        variant=variant,
        draws=draws,
    )


CASES = [
    Case("rnn_cell", nn.rnn_cell(5), torch.nn.RNNCell(3, 5), (4, 3)),
    case("lstm_cell", (4, 3)),
    Case("gru_cell", nn.gru_cell(5), torch.nn.GRUCell(3, 5), (4, 3)),
    case("rnn", (3, 4, 2)),
    case("rnn", (3, 4, 2), "relu", nonlinearity="relu", bidirectional=True),
    case("lstm", (3, 4, 2)),
    case("lstm", (3, 4, 2), "proj", proj_size=2, num_layers=2, bidirectional=True),
    case("lstm", (3, 4, 2), "dropout", num_layers=2, dropout=0.4, draws=True),
    case("gru", (3, 4, 2)),
    case("gru", (3, 4, 2), "b", bias=False, num_layers=2),
]
