"""A language model as HuggingFace's are written: keywords, output classes, ties, a cache."""

from collections import OrderedDict
from dataclasses import dataclass, fields

import pytest
import torch
from torch import nn as torch_nn
from torch.nn import functional

import purefn.functional as pf
from purefn.functional import interop, nn, random, tree

KEY = random.key(0)
WORDS = torch.tensor([[1, 5, 2, 7], [3, 3, 0, 4]])


@dataclass
class Config:
    vocab_size: int = 9
    hidden_size: int = 8
    heads: int = 2
    layers: int = 2
    dropout: float = 0.0
    use_cache: bool = False


class ModelOutput(OrderedDict):
    """A dataclass that is a dict of those of its fields that are not `None`."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                self[field.name] = value


@dataclass
class CausalOutput(ModelOutput):
    loss: torch.Tensor = None
    logits: torch.Tensor = None
    past_key_values: object = None
    hidden_states: tuple = None


class Cache:
    def __init__(self):
        self.layers = []


class Block(torch_nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.norm = torch_nn.LayerNorm(config.hidden_size)
        self.attention = torch_nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = torch_nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = torch_nn.Dropout(config.dropout)

    def forward(self, x, mask, cache):
        q, k, v = (
            part.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)
            for part in self.attention(self.norm(x)).chunk(3, dim=-1)
        )
        if cache is not None:
            cache.layers.append((k, v))
        dropout_p = self.config.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(q, k, v, mask, dropout_p)
        return x + self.dropout(self.out(y.transpose(1, 2).flatten(-2)))


class LanguageModel(torch_nn.Module):
    _tied_weights_keys = ("lm_head.weight",)

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = torch_nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = torch_nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.lm_head = torch_nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.weight = self.embedding.weight
        self.register_buffer("causal", torch.ones(16, 16).tril().bool(), persistent=False)

    def forward(self, input_ids, attention_mask=None, labels=None, use_cache=None):
        use_cache = self.config.use_cache if use_cache is None else use_cache
        length = input_ids.shape[1]
        mask = self.causal[:length, :length]
        # HuggingFace's models look at the values of a mask where they may.
        if attention_mask is not None and (
            torch.compiler.is_compiling() or not attention_mask.all()
        ):
            mask = mask & attention_mask[:, None, None].bool()
        x, cache, states = self.embedding(input_ids), Cache() if use_cache else None, ()
        for block in self.blocks:
            x = block(x, mask, cache)
            states += (x,)
        logits = self.lm_head(x)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return CausalOutput(loss, logits, cache, states)


def model(**options):
    torch.manual_seed(0)
    return LanguageModel(Config(**options)).double()


def test_it_computes_and_differentiates_as_it_does():
    module = model()
    layer, params, state = interop.from_module(module)
    names = tree.to_state_dict(params)
    assert "lm_head.weight" not in names
    assert set(names) == {name for name, _ in module.named_parameters()}
    assert list(tree.to_state_dict(state)) == ["causal"]
    x = {"input_ids": WORDS, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}
    y, new = layer(params, state, {**x, "labels": WORDS})
    assert type(y) is dict
    assert list(y) == ["loss", "logits", "hidden_states"]
    assert torch.equal(new["causal"], state["causal"])
    expected = module(**x, labels=WORDS)
    torch.testing.assert_close(y["logits"], expected.logits.detach(), rtol=1e-12, atol=1e-14)
    expected.loss.backward()

    def loss(params, x):
        return layer(params, state, x)[0]["loss"]

    given = {**x, "labels": WORDS}
    compiled = pf.jit(pf.grad(loss), backend="aot_eager")
    for grads in (pf.grad(loss)(params, given), compiled(params, given)):
        found = tree.to_state_dict(grads)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-10, atol=1e-14)
    assert not torch.compiler.is_compiling()


def test_its_dropout_takes_keys_and_examples_can_be_mapped():
    layer, params, state = interop.from_module(model(dropout=0.3))
    x = {"input_ids": WORDS}
    with pytest.raises(nn.LayerError, match="scaled_dot_product_attention and needs a key"):
        layer(params, state, x, train=True)

    def logits(key, words):
        x = {"input_ids": words[None]}
        return layer(params, state, x, key=key, train=True)[0]["logits"][0]

    keys = random.split(KEY, 2)
    mapped = pf.vmap(logits)(keys, WORDS)
    for found, key, words in zip(mapped, keys, WORDS, strict=True):
        torch.testing.assert_close(found, logits(key, words), rtol=1e-12, atol=1e-14)

    def loss(params, words):
        return layer(params, state, {"input_ids": words[None]})[0]["logits"].square().sum()

    masked = pf.vmap(
        lambda words, mask: layer(
            params, state, {"input_ids": words[None], "attention_mask": mask[None]}
        )[0]["logits"][0]
    )
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    expected = layer(params, state, {**x, "attention_mask": mask})[0]["logits"]
    torch.testing.assert_close(masked(WORDS, mask), expected, rtol=1e-12, atol=1e-14)
    mapped = pf.vmap(pf.grad(loss), in_axes=(None, 0))(params, WORDS)
    for index, words in enumerate(WORDS):
        grads = pf.grad(loss)(params, words)
        for found, wanted in zip(tree.leaves(mapped), tree.leaves(grads), strict=True):
            torch.testing.assert_close(found[index], wanted, rtol=1e-10, atol=1e-13)
    direction = tree.map(torch.ones_like, params)
    _, forwards = pf.jvp(lambda params: loss(params, WORDS[0]), (params,), (direction,))
    backwards = tree.dot(pf.grad(loss)(params, WORDS[0]), direction)
    torch.testing.assert_close(forwards, backwards, rtol=1e-11, atol=1e-12)


def test_a_cache_is_refused_and_can_be_left_out():
    module = model(use_cache=True)
    layer, params, state = interop.from_module(module)
    with pytest.raises(nn.LayerError, match=r"output\['past_key_values'\] of type Cache"):
        layer(params, state, {"input_ids": WORDS})
    layer, params, state = interop.from_module(
        module, lambda module, words: module(words, use_cache=False).logits
    )
    assert torch.equal(layer(params, state, WORDS)[0], module(WORDS).logits.detach())


def test_what_was_trained_goes_back_and_stays_tied():
    module = model()
    _, params, state = interop.from_module(module)
    params = tree.map(lambda leaf: leaf + 1, params)
    interop.load_into(module, params, state)
    assert module.lm_head.weight is module.embedding.weight
    torch.testing.assert_close(module.lm_head.weight.detach(), params["embedding"]["weight"])
