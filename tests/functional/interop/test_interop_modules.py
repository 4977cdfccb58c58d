"""Torch's own modules as pure functions, against those modules."""

import copy
import threading

import pytest
import torch
from torch.nn.utils import parametrizations

import purefn.functional as pf
from purefn.data import import_torchvision
from purefn.functional import interop, nn, random, tree

models = import_torchvision().models
X = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
KEY = random.key(3)


def call(converted, x, key=None, train=False):
    """Return output and state of what `from_module` returned, on its own values."""
    layer, *trees = converted
    y = layer(*trees, x, key=key, train=train)
    return y if isinstance(layer, nn.StatefulLayer) else (y, {})


def arguments(x):
    return (x, {}) if isinstance(x, tuple) else ((), x) if isinstance(x, dict) else ((x,), {})


def total(y):
    return sum(leaf.square().sum() for leaf in tree.leaves(y) if leaf.is_floating_point())


def assert_same_step(module, x, train, rtol=1e-12):
    """Compare output, gradients and state with those of the module itself, a copy of it."""
    module = copy.deepcopy(module).double()
    expected = module if train else copy.deepcopy(module).eval()
    converted = interop.from_module(module)
    layer, params, *state = converted
    before = tree.map(torch.clone, (params, state, x))

    def loss(params, x):
        y, new = call((layer, params, *state), x, train=train)
        return total(y), new

    grads, new = pf.grad(loss, argnums=0, has_aux=True)(params, x)
    args, options = arguments(tree.map(torch.clone, x))
    value = total(interop.outputs.plain("", expected(*args, **options)))
    trained = dict(expected.named_parameters())
    if trained:
        value.backward()
    torch.testing.assert_close(loss(params, x)[0], value.detach(), rtol=rtol, atol=0)
    found = tree.to_state_dict(grads)
    assert set(found) == set(trained)
    for name, parameter in trained.items():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], wanted, rtol=1e-9, atol=rtol)
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(tree.to_state_dict(new)[name], buffer, rtol=rtol, atol=0)
    assert tree.all(tree.map(torch.equal, before, (params, state, x)))


def mixed(*parts):
    return torch.nn.Sequential(*parts)


class Packing(torch.nn.Module):
    """What a recurrent layer makes of sequences of several lengths."""

    def __init__(self, layer, lengths, **padding):
        super().__init__()
        self.embedding, self.layer = torch.nn.Linear(8, 8), layer
        self.lengths, self.padding = lengths, padding

    def forward(self, x):
        axis = self.layer.batch_first
        is_sorted = sorted(self.lengths, reverse=True) == self.lengths
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            self.embedding(x), self.lengths, axis, enforce_sorted=is_sorted
        )
        y, states = self.layer(packed)
        return *torch.nn.utils.rnn.pad_packed_sequence(y, axis, **self.padding), states


class Stepping(torch.nn.Module):
    """A cell that goes through a sequence, with a part of its state to begin with."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = self.cell(x[:, 0])
        for step in x.unbind(1)[1:]:
            state = self.cell(step, state)
        return state


MODULES = {
    "linear": (torch.nn.Linear(8, 3), X),
    "convolution": (torch.nn.Conv1d(6, 4, 3, padding_mode="circular", padding=1), X),
    "batch_norm": (torch.nn.BatchNorm1d(6), X),
    "cumulative_batch_norm": (torch.nn.BatchNorm1d(6, momentum=None), X),
    "instance_norm": (torch.nn.InstanceNorm1d(6, track_running_stats=True), X),
    "in_place": (mixed(torch.nn.ReLU(inplace=True), torch.nn.Hardtanh(inplace=True)), X),
    "lstm": (torch.nn.LSTM(8, 5, 2, bidirectional=True, batch_first=True), X),
    "gru": (torch.nn.GRU(8, 5), X),
    "packed_lstm": (
        Packing(torch.nn.LSTM(8, 5, 2, bidirectional=True, batch_first=True), [5, 3, 3, 1]),
        X,
    ),
    "packed_gru": (
        Packing(torch.nn.GRU(8, 5, bias=False), [2, 4, 1, 2, 4, 3], total_length=5),
        X,
    ),
    "packed_rnn": (
        Packing(torch.nn.RNN(8, 5, 2, batch_first=True), [6, 5, 2, 1], padding_value=-1.0),
        X,
    ),
    "attention": (torch.nn.MultiheadAttention(8, 2, batch_first=True), (X, X, X)),
    "keywords": (
        torch.nn.MultiheadAttention(8, 2, batch_first=True),
        {"query": X, "key": X, "value": X},
    ),
    "encoder": (torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), X),
    "decoder": (torch.nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True), (X, X)),
    "weight_norm": (parametrizations.weight_norm(torch.nn.Linear(8, 3)), X),
    "orthogonal": (parametrizations.orthogonal(torch.nn.Linear(8, 3)), X),
    "spectral_norm": (parametrizations.spectral_norm(torch.nn.Linear(8, 3)), X),
    "renormalized": (
        torch.nn.Embedding(7, 3, max_norm=0.5),
        torch.tensor([[1, 2, 2], [6, 0, 1]]),
    ),
    "renormalized_bag": (
        torch.nn.EmbeddingBag(7, 3, max_norm=0.5),
        torch.tensor([[1, 2, 2], [6, 0, 1]]),
    ),
}


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_torch_is_itself_as_a_function(name, train):
    module, x = MODULES[name]
    x = tree.map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, x)
    assert_same_step(module, x, train)


NETWORKS = {
    "resnet": lambda: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3),
    "densenet": lambda: models.DenseNet(4, (2, 2), 8, num_classes=3),
    "mobilenet_v3": lambda: without_dropout(models.mobilenet_v3_small(num_classes=3)),
    "squeezenet": lambda: without_dropout(models.squeezenet1_1(num_classes=3)),
    "vision_transformer": lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3),
    "swin": lambda: models.SwinTransformer(
        [4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=3, stochastic_depth_prob=0.0
    ),
    "convnext": lambda: models.ConvNeXt(
        [models.convnext.CNBlockConfig(8, 16, 1), models.convnext.CNBlockConfig(16, None, 1)],
        num_classes=3,
    ),
}


def without_dropout(module):
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return module


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_torchvision_is_itself_as_a_function(name, train):
    torch.manual_seed(0)
    assert_same_step(NETWORKS[name](), torch.randn(3, 3, 32, 32).double(), train)


def test_googlenet_returns_its_auxiliary_outputs_in_training():
    module = models.GoogLeNet(num_classes=3, init_weights=False, dropout=0.0, dropout_aux=0.0)
    layer, params, state = interop.from_module(module)
    outputs, _ = layer(params, state, torch.randn(2, 3, 64, 64), train=True)
    assert type(outputs).__name__ == "GoogLeNetOutputs"
    assert [leaf.shape for leaf in outputs] == [(2, 3)] * 3
    evaluated, _ = layer(params, state, torch.randn(2, 3, 64, 64))
    assert evaluated.shape == (2, 3)


RECURRENT = {
    "lstm": torch.nn.LSTM(8, 5, 2, bidirectional=True, batch_first=True),
    "projected": torch.nn.LSTM(8, 5, 2, bias=False, batch_first=True, proj_size=3),
    "gru": torch.nn.GRU(8, 5, 2, bidirectional=True, batch_first=True),
    "tanh": torch.nn.RNN(8, 5, batch_first=True),
    "relu": torch.nn.RNN(8, 5, 2, "relu", bias=False, batch_first=True),
    "time_first": torch.nn.GRU(8, 5),
    "packed": Packing(torch.nn.LSTM(8, 5, batch_first=True), [6, 6, 2, 1]),
    "lstm_cell": Stepping(torch.nn.LSTMCell(8, 5)),
    "gru_cell": Stepping(torch.nn.GRUCell(8, 5)),
    "rnn_cell": Stepping(torch.nn.RNNCell(8, 5, nonlinearity="relu", bias=False)),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_modules_can_be_mapped(name):
    layer, params = interop.from_module(RECURRENT[name].double())
    x = torch.stack([X, 1 - X]).double()
    grads = pf.grad(lambda params, x: total(layer(params, x)))
    several = tree.map(lambda leaf: torch.stack([leaf, -leaf, 2 * leaf]), params)
    for run, axes, count in [(grads, (None, 0), 2), (grads, (0, None), 3), (layer, (0, None), 3)]:
        mapped = pf.vmap(run, in_axes=axes)(
            several if axes[0] == 0 else params, x if axes[1] == 0 else x[0]
        )
        for index in range(count):
            own = tree.map(lambda leaf, i=index: leaf[i], several) if axes[0] == 0 else params
            wanted = run(own, x[index if axes[1] == 0 else 0])
            for found, value in zip(tree.leaves(mapped), tree.leaves(wanted), strict=True):
                torch.testing.assert_close(found[index], value, rtol=1e-10, atol=1e-12)


def test_an_encoder_with_masked_positions_can_be_mapped():
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layer, params = interop.from_module(torch.nn.TransformerEncoder(layer, 1).double())
    x = {"src": X.double(), "src_key_padding_mask": torch.arange(6) > torch.arange(2, 6)[:, None]}

    def loss(params, x):
        return layer(params, tree.map(lambda leaf: leaf[None], x)).square().sum()

    mapped = pf.vmap(pf.grad(loss), in_axes=(None, 0))(params, x)
    for index in range(4):
        wanted = pf.grad(loss)(params, tree.map(lambda leaf, i=index: leaf[i], x))
        for found, value in zip(tree.leaves(mapped), tree.leaves(wanted), strict=True):
            torch.testing.assert_close(found[index], value, rtol=1e-10, atol=1e-12)


def test_training_compiles_and_maps():
    torch.manual_seed(0)
    module = mixed(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(inplace=True))
    layer, params, state = interop.from_module(module)
    x = torch.randn(2, 4, 2, 5, 5)

    def loss(params, state, x):
        y, state = layer(params, state, x, train=True)
        return y.square().mean(), state

    one_by_one = [pf.grad(loss, has_aux=True)(params, state, part) for part in x]
    compiled = pf.jit(pf.grad(loss, has_aux=True), backend="aot_eager")
    mapped = pf.vmap(pf.grad(loss, has_aux=True), in_axes=(None, None, 0))(params, state, x)
    for index, expected in enumerate(one_by_one):
        found = compiled(params, state, x[index])
        tree.map(
            lambda a, b: torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7), found, expected
        )
        found = tree.map(lambda leaf, i=index: leaf[i], mapped)
        tree.map(
            lambda a, b: torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6), found, expected
        )
    ensemble = tree.stack([params, tree.map(torch.neg, params)])
    outputs, _ = pf.vmap(lambda p: layer(p, state, x[0]))(ensemble)
    torch.testing.assert_close(outputs[0], layer(params, state, x[0])[0])


def test_resnet18_trains_compiled():
    torch.manual_seed(0)
    module = models.resnet18(num_classes=3)
    layer, params, state = interop.from_module(module)
    x = torch.randn(2, 3, 32, 32)

    def loss(params, state, x):
        y, state = layer(params, state, x, train=True)
        return y.square().mean(), state

    step = pf.jit(pf.grad(loss, has_aux=True), backend="aot_eager")
    grads, new = step(params, state, x)
    module(x).square().mean().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(
            tree.to_state_dict(grads)[name], parameter.grad, rtol=1e-4, atol=1e-6
        )
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(tree.to_state_dict(new)[name], buffer)


# --- what is copied, what is remembered ----------------------------------------------------------


def test_the_module_is_not_written_and_not_seen_later():
    module = mixed(torch.nn.Linear(8, 6), torch.nn.BatchNorm1d(6))
    values = {name: value.clone() for name, value in module.state_dict().items()}
    layer, params, state = interop.from_module(module)
    y, _ = layer(params, state, X, train=True)
    assert all(torch.equal(value, values[name]) for name, value in module.state_dict().items())
    assert not any(leaf.requires_grad for leaf in tree.leaves((params, state)))
    with torch.no_grad():
        for leaf in [*module.parameters(), *tree.leaves(params)]:
            leaf.zero_()
    for name, parameter in module.named_parameters():
        parameter.data = torch.zeros(len(name))
    drawn, _ = layer.init(KEY, X)
    again, _ = layer(drawn, state, X, train=True)
    torch.testing.assert_close(again, y)


def test_what_a_module_assigns_is_forgotten():
    class Counting(torch.nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            self.last = x
            return super().forward(x) * self.calls

    layer, params = interop.from_module(Counting(8, 2))
    assert torch.equal(layer(params, X), layer(params, X))
    pf.grad(lambda params: layer(params, X).sum())(params)
    assert torch.equal(layer(params, X), layer(params, X))


def test_what_a_module_collects_or_hooks_in_a_call_is_forgotten():
    class Collecting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part = torch.nn.Linear(8, 8)
            self.seen, self.tables = [], {"masks": {}}

        def forward(self, x):
            self.part.register_forward_hook(lambda module, args, y: y + 1)
            self.seen.append(self.part(x))
            scale = self.tables["masks"].setdefault(len(x), x.mean())
            return sum(self.seen) * scale

    module = Collecting()
    layer, params = interop.from_module(module)
    pf.vmap(lambda x: layer(params, x))(torch.stack([X, X]))
    for x in (X, 2 * X):
        torch.testing.assert_close(layer(params, x), copy.deepcopy(module)(x).detach())
    shared = []
    module = mixed(torch.nn.Identity(), torch.nn.Identity())
    module[0].notes = module[1].notes = shared
    module[0].register_forward_hook(lambda module, args, y: module.notes.append(y))
    module[1].register_forward_hook(lambda module, args, y: module.notes[0] + y)
    layer, _ = interop.from_module(module)
    assert torch.equal(layer({}, X), 2 * X)
    assert shared == []


def test_tensors_that_lists_and_dicts_hold_once_more_have_their_values():
    class Holding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((8,), 2.0))
            self.register_buffer("shift", torch.ones(8))
            self.parts = [(self.weight, 1), {"shift": self.shift}]
            self.first = self.shift
            self.computed = [self.weight.sum()]

        def forward(self, x):
            shift = self.parts[1]["shift"] + self.first
            return x * self.parts[0][0] + shift * (self.computed[0] - 15)

    layer, params, state = interop.from_module(Holding())
    params, state = tree.map(torch.neg, (params, state))
    torch.testing.assert_close(layer(params, state, X)[0], -2 * X - 2)
    grads = pf.grad(lambda params: layer(params, state, X)[0].sum())(params)
    torch.testing.assert_close(grads["weight"], X.sum((0, 1)))


def test_a_module_that_was_traced_by_fx():
    class Scaling(torch.nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.scale = torch.nn.Parameter(torch.full((8,), 2.0))
            self.register_buffer("shift", torch.ones(8))

        def forward(self, x):
            return super().forward(x) * self.scale + self.shift

    module = torch.fx.symbolic_trace(Scaling())
    layer, params, state = interop.from_module(module)
    assert (sorted(params), sorted(state)) == (["bias", "scale", "weight"], ["shift"])
    assert torch.equal(layer(params, state, X)[0], module(X).detach())


def test_a_buffer_that_is_a_parameter_is_that_parameter():
    module = mixed(torch.nn.Linear(8, 8, bias=False), torch.nn.Module())
    module[1].register_buffer("weight", module[0].weight)
    module[1].forward = lambda x: x @ module[1].weight
    layer, params = interop.from_module(
        module, lambda module, x: module[0](x) * module[1].weight.sum()
    )
    assert list(tree.to_state_dict(params)) == ["0.weight"]
    grads = pf.grad(lambda params: layer(params, X).sum())(params)
    (module[0](X) * module[1].weight.sum()).sum().backward()
    torch.testing.assert_close(grads["0"]["weight"], module[0].weight.grad)


def test_a_state_that_is_assigned_through_data_comes_back_under_transforms():
    class Averaging(torch.nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.register_buffer("average", torch.zeros(8))

        def forward(self, x):
            y = super().forward(x)
            self.average.data.mul_(0.5)
            self.average.data = self.average.data + y.mean((0, 1))
            return y * self.average

    module = Averaging()
    layer, params, state = interop.from_module(module)
    x = torch.stack([X, -X])

    def loss(params, state, x):
        y, state = layer(params, state, x)
        return y.sum(), state

    step = pf.grad(loss, has_aux=True)
    mapped = pf.vmap(step, in_axes=(None, None, 0))(params, state, x)
    compiled = pf.jit(step, backend="aot_eager")
    for index in (0, 1):
        module = copy.deepcopy(Averaging())
        module.load_state_dict(tree.to_state_dict(params) | tree.to_state_dict(state))
        module(x[index]).sum().backward()
        wanted = [module.weight.grad, module.bias.grad, module.average.detach()]
        ones = tree.map(lambda leaf, i=index: leaf[i], mapped)
        for grads, new in (step(params, state, x[index]), ones, compiled(params, state, x[index])):
            found = [grads["weight"], grads["bias"], new["average"]]
            torch.testing.assert_close(found, wanted)


def test_a_state_that_is_assigned_comes_back():
    class Averaging(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("average", torch.zeros(8), persistent=False)

        def forward(self, x):
            self.average = 0.5 * self.average + 0.5 * x.mean((0, 1))
            return x - self.average

    layer, params, state = interop.from_module(Averaging())
    assert params == {}
    _, new = layer(params, state, X)
    torch.testing.assert_close(new["average"], 0.5 * X.mean((0, 1)))
    assert torch.equal(state["average"], torch.zeros(8))


def test_a_part_that_stands_otherwise_goes_on_standing():
    frozen = mixed(torch.nn.BatchNorm1d(6), torch.nn.BatchNorm1d(6))
    frozen[1].eval()
    layer, params, state = interop.from_module(frozen)
    _, new = layer(params, state, X, train=True)
    assert not torch.equal(new["0"]["running_mean"], state["0"]["running_mean"])
    assert torch.equal(new["1"]["running_mean"], state["1"]["running_mean"])
    sampling = mixed(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5)).eval()
    sampling[1].train()
    layer, params = interop.from_module(sampling)
    assert (layer(params, X, key=KEY) == 0).any()


def test_tied_weights_are_one_leaf():
    class Language(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(7, 4)
            self.head = torch.nn.Linear(4, 7, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, words):
            return self.head(self.embedding(words))

    module = Language()
    words = torch.tensor([[1, 5, 2]])
    layer, params = interop.from_module(module)
    assert list(tree.to_state_dict(params)) == ["embedding.weight"]
    grads = pf.grad(lambda params: layer(params, words).square().sum())(params)
    module(words).square().sum().backward()
    torch.testing.assert_close(grads["embedding"]["weight"], module.embedding.weight.grad)


def test_a_module_used_twice_is_one():
    shared = torch.nn.Linear(8, 8)
    layer, params = interop.from_module(mixed(shared, torch.nn.Tanh(), shared))
    assert list(tree.to_state_dict(params)) == ["0.bias", "0.weight"]
    torch.testing.assert_close(layer(params, X), shared(torch.tanh(shared(X))).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_other_dtypes(dtype):
    module = torch.nn.Linear(8, 3, dtype=dtype)
    layer, params = interop.from_module(module)
    x = X.to(dtype)
    assert torch.equal(layer(params, x), module(x).detach())


def test_parameters_of_another_dtype_are_used_as_they_are():
    layer, params, state = interop.from_module(
        mixed(torch.nn.Linear(8, 6), torch.nn.BatchNorm1d(6))
    )
    y, _ = layer(tree.cast(params, torch.float64), tree.cast(state, torch.float64), X.double())
    assert y.dtype == torch.float64


def test_integer_parameters():
    class Shift(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.by = torch.nn.Parameter(torch.tensor([1, 2]), requires_grad=False)

        def forward(self, x):
            return x + self.by

    layer, params = interop.from_module(Shift())
    assert layer(params, torch.zeros(2)).tolist() == [1, 2]


def test_it_is_a_part_like_any_other():
    model = nn.serial(
        features=interop.from_module(mixed(torch.nn.Linear(8, 5), torch.nn.BatchNorm1d(6)))[0],
        head=nn.linear(2),
    )
    params, state = model.init(KEY, X)
    assert model(params, state, X)[0].shape == (4, 6, 2)


def test_threads_do_not_meet():
    layer, params = interop.from_module(mixed(*(torch.nn.Linear(8, 8) for _ in range(4))))
    several = [tree.map(lambda leaf, i=i: leaf * i, params) for i in range(4)]
    expected = [layer(values, X) for values in several]
    found = [[] for _ in several]

    def work(index):
        for _ in range(20):
            found[index].append(layer(several[index], X))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outputs, wanted in zip(found, expected, strict=True):
        assert all(torch.equal(output, wanted) for output in outputs)
