"""Mixtures of experts, beside a loop over tokens."""

import torch

from purefn.functional import nn

from .case import Case


class Experts(torch.nn.Module):
    """Linear layers with their parameters stacked."""

    def __init__(self, count, features):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(count, features, features))
        self.bias = torch.nn.Parameter(torch.randn(count, features))

    def forward(self, token, number):
        return self.weight[number] @ token + self.bias[number]


class Mixture(torch.nn.Module):
    """The mixture as the papers have it, token by token and choice by choice."""

    def __init__(self, features, count, top_k, capacity=None):
        super().__init__()
        self.router = torch.nn.Linear(features, count, bias=False)
        self.experts = Experts(count, features)
        self.top_k, self.capacity = top_k, capacity

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        outputs = [torch.zeros_like(token) for token in tokens]
        room = [self.capacity or len(tokens)] * len(self.experts.weight)
        logits = self.router(tokens)
        for choice in range(self.top_k):
            for index, token in enumerate(tokens):
                best = logits[index].sort(descending=True).indices[: self.top_k]
                probabilities = logits[index].softmax(0)[best]
                gates = probabilities if self.top_k == 1 else logits[index][best].softmax(0)
                number = int(best[choice])
                if room[number]:
                    room[number] -= 1
                    outputs[index] = outputs[index] + gates[choice] * self.experts(token, number)
        return torch.stack(outputs).reshape(x.shape)


X = (3, 4, 5)

CASES = [
    Case("mixture_of_experts", nn.mixture_of_experts(nn.linear(5), 4), Mixture(5, 4, 2), X),
    Case(
        "mixture_of_experts",
        nn.mixture_of_experts(nn.linear(5), 3, top_k=1),
        Mixture(5, 3, 1),
        X,
        variant="switch",
    ),
    Case(
        "mixture_of_experts",
        nn.mixture_of_experts(nn.linear(5), 3, top_k=2, capacity_factor=0.75),
        Mixture(5, 3, 2, capacity=6),
        X,
        variant="capacity",
        mixes=True,
    ),
    Case(
        "mixture_of_experts",
        nn.mixture_of_experts(
            nn.serial(nn.linear(3), nn.dropout(0.3)), 3, router=nn.noisy_router(3)
        ),
        None,
        X,
        variant="noisy",
        draws=True,
    ),
    Case("tracked_mixture_of_experts", nn.tracked_mixture_of_experts(nn.linear(2), 3), None, X),
    Case("noisy_router", nn.noisy_router(3), None, (4, 5), draws=True),
]
