"""Parameters of flax and equinox, against outputs that those recorded.

`reference/record_flax_equinox.py` says how. Activations have their channels last there.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.nn import functional

from purefn.functional import interop, nn, tree
from purefn.functional.interop import layouts

RECORDS = np.load(Path(__file__).with_name("reference") / "flax_equinox.npz")
#: What rounds to float32 inside, whatever it is given.
SINGLE = {"nnx_attention", "nnx_simple_cell"}


def recorded(name):
    """Return parameters as nested dicts of arrays, input, output and carry."""
    start = f"{name}/params/"
    params: dict = {}
    for entry in RECORDS.files:
        if entry.startswith(start):
            *parents, last = entry.removeprefix(start).split("/")
            node = params
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = RECORDS[entry]
    carry = [entry for entry in RECORDS.files if entry.startswith(f"{name}/carry")]
    x, y, *carry = (torch.from_numpy(RECORDS[e]) for e in (f"{name}/x", f"{name}/y", *carry))
    return params, x, y, carry


def first(x):
    """Channels first."""
    return x.movedim(-1, 1)


def last(x):
    return x.movedim(1, -1)


def linen_network(params, state, x):
    model = nn.serial(
        conv1=nn.conv2d(4, 3, stride=2),
        norm1=nn.batch_norm(),
        act=nn.relu,
        conv2=nn.conv2d(4, 3, groups=2),
        norm2=nn.group_norm(2),
        flat=nn.flatten(),
        head=nn.linear(3),
    )
    # "SAME" of a stride of two pads the ends alone.
    return model(params, state, functional.pad(first(x), (0, 1, 0, 1)))[0]


def nnx_network(params, state, x):
    features = nn.serial(conv=nn.conv2d(4, 3), norm=nn.batch_norm(), act=nn.relu)
    head = nn.serial(nn.linear(5), nn.relu, nn.linear(3))
    hidden, _ = features({"conv": params["conv"], "norm": params["norm"]}, state, first(x))
    layers = {"0": params["layers"]["0"], "2": params["layers"]["1"]}
    return head(layers, hidden.mean((2, 3)))


def by_layer(layer):
    return lambda params, state, x: layer(params, x)


def by_images(layer):
    return lambda params, state, x: last(layer(params, first(x)))


def by_cell(cell, *carry):
    def run(params, state, x, *carry):
        *_, weights = (params,)
        h = cell(x, carry[0] if len(carry) == 1 else (carry[1], carry[0]), *torch_order(weights))
        return h[0] if isinstance(h, tuple) else h

    return run


def torch_order(params):
    return [params[name] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def cell(kind):
    """Run torch's own cell: an oracle for the gates' order that is not ours."""
    return by_cell(getattr(torch, f"{kind}_cell"))


NAMES = {
    "Conv_0": "conv1",
    "BatchNorm_0": "norm1",
    "Conv_1": "conv2",
    "GroupNorm_0": "norm2",
    "Dense_0": "head",
}
FLAX: dict[str, tuple[Any, dict]] = {
    "linen_network": (linen_network, {"names": NAMES, "flattened": {"Dense_0": (2, 2, 4)}}),
    "linen_conv_transpose": (
        by_images(nn.conv_transpose2d(3, (3, 2), stride=(2, 1))),
        {"transposed": [""]},
    ),
    "linen_conv1d": (by_images(nn.conv1d(3, 3)), {}),
    "linen_conv3d": (by_images(nn.conv3d(3, (2, 3, 2))), {}),
    "linen_embedding": (by_layer(nn.embedding(7, 4)), {}),
    "linen_layer_norm": (by_layer(nn.layer_norm()), {}),
    "linen_rms_norm": (by_layer(nn.rms_norm(eps=1e-6)), {}),
    "linen_attention": (by_layer(nn.multi_head_attention(2)), {}),
    "linen_lstm_cell": (cell("lstm"), {}),
    "linen_optimized_lstm_cell": (cell("lstm"), {}),
    "linen_gru_cell": (cell("gru"), {}),
    "linen_simple_cell": (cell("rnn_tanh"), {}),
    "linen_lstm": (lambda params, state, x: nn.lstm(3)(params, x)[0], {}),
    "nnx_network": (nnx_network, {}),
    "nnx_attention": (by_layer(nn.multi_head_attention(2)), {}),
    "nnx_lstm_cell": (cell("lstm"), {}),
    "nnx_optimized_lstm_cell": (cell("lstm"), {}),
    "nnx_gru_cell": (cell("gru"), {}),
    "nnx_simple_cell": (cell("rnn_tanh"), {}),
}


def assert_same(name, found, y):
    rounding = 1e-6 if name in SINGLE else 1e-12
    torch.testing.assert_close(found.to(y.dtype), y, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", FLAX)
def test_a_layer_of_flax_computes_the_same_here(name):
    run, options = FLAX[name]
    variables, x, y, carry = recorded(name)
    params, state = interop.from_flax(variables, **options)
    assert_same(name, run(params, state, x, *carry), y)


@pytest.mark.parametrize("name", FLAX)
def test_and_goes_back_as_it_came(name):
    _, options = FLAX[name]
    variables, *_ = recorded(name)
    params, state = interop.from_flax(variables, **options)
    back = interop.to_flax(params, state, variables, **options)
    assert tree.structure(back) == tree.structure(variables)
    for found, wanted in zip(tree.leaves(back), tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_all_that_was_recorded_is_tested():
    names = {entry.split("/")[0] for entry in RECORDS.files}
    assert names == FLAX.keys() | EQUINOX.keys()


def test_integers_for_names_and_a_transposed_convolution_by_its_name():
    kernel = np.arange(12.0).reshape(2, 3, 2)
    params, _ = interop.from_flax({0: {"kernel": kernel}, "ConvTranspose_1": {"kernel": kernel}})
    expected = torch.from_numpy(kernel)
    assert torch.equal(params["0"]["weight"], expected.permute(2, 1, 0))
    assert torch.equal(params["ConvTranspose_1"]["weight"], expected.flip(0).permute(1, 2, 0))


def test_what_comes_in_is_a_copy():
    kernel = np.ones((2, 3))
    params, _ = interop.from_flax({"params": {"kernel": kernel}})
    kernel[:] = 0
    assert params["weight"].eq(1).all()
    back = interop.to_flax(params, {}, {"params": {"kernel": kernel}})
    back["params"]["kernel"][:] = 7
    assert params["weight"].eq(1).all()


def test_biases_that_flax_does_not_have_are_added_or_refused():
    like, *_ = recorded("nnx_gru_cell")
    params, _ = interop.from_flax(like)
    moved = {**params, "bias_hh": torch.cat([torch.ones(6), torch.zeros(3)]).double()}
    back = interop.to_flax(moved, {}, like)
    added = np.r_[np.ones(6), np.zeros(3)]
    np.testing.assert_allclose(back["dense_i"]["bias"], like["dense_i"]["bias"] + added)
    moved["bias_hh"] = torch.ones(9).double()
    with pytest.raises(ValueError, match="bias_hh of gate 'n' is not zero"):
        interop.to_flax(moved, {}, like)


def dense(inputs=4, outputs=3):
    return {"params": {"Dense_0": {"kernel": np.ones((inputs, outputs)), "bias": np.ones(outputs)}}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": {"Dense_1": "head"}}, r"no layer is called \['Dense_1'\]; .*'Dense_0'"),
        ({"transposed": ["up"]}, r"no layer is called \['up'\]"),
        ({"flattened": {"head": (1, 2, 2)}}, r"no layer is called \['head'\]"),
        ({"flattened": {"Dense_0": (1, 2, 3)}}, r"Dense_0 has 4 inputs, no image of shape"),
    ],
)
def test_an_option_for_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        interop.from_flax(dense(), **options)


def test_two_layers_of_one_name_are_refused():
    variables = {"a": dense()["params"]["Dense_0"], "b": dense()["params"]["Dense_0"]}
    with pytest.raises(ValueError, match="two arrays would be called 'a"):
        interop.from_flax(variables, names={"b": "a"})


def test_what_does_not_fit_back_is_refused():
    params, state = interop.from_flax(dense())
    with pytest.raises(ValueError, match=r"no 'bias'; got \['weight'\]"):
        interop.to_flax({"Dense_0": {"weight": params["Dense_0"]["weight"]}}, state, dense())
    with pytest.raises(ValueError, match=r"no place for \['other'\]"):
        interop.to_flax({**params, "other": torch.ones(1)}, state, dense())
    with pytest.raises(ValueError, match=r"Dense_0.kernel would have shape \(4, 3\).*\(5, 3\)"):
        interop.to_flax(params, state, dense(5))
    own = params["Dense_0"]
    with pytest.raises(ValueError, match=r"Dense_0.bias would have shape \(1,\)"):
        interop.to_flax({"Dense_0": {**own, "bias": torch.ones(1)}}, state, dense())
    norm = {"params": {"Norm_0": {"scale": np.ones((2, 3))}}}
    with pytest.raises(ValueError, match=r"Norm_0.scale would have shape \(3, 2\)"):
        interop.to_flax({"Norm_0": {"weight": torch.ones(3, 2)}}, {}, norm)
    with pytest.raises(TypeError, match=r"expected tensors, got 'Dense_0.bias' = 1"):
        interop.to_flax({"Dense_0": {**own, "bias": 1}}, state, dense())


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match=r"from_flax: Dense_0: .*expected numpy arrays"):
        interop.from_flax({"params": {"Dense_0": {"kernel": "w"}}})
    with pytest.raises(ValueError, match=r"from_flax: Dense_0 has a kernel of shape \(3,\)"):
        interop.from_flax({"params": {"Dense_0": {"kernel": np.ones(3)}}})
    for function in (interop.from_flax, lambda values: interop.to_flax({}, {}, values)):
        with pytest.raises(TypeError, match=r"nested dicts for .*, got list.*nnx\.to_pure_dict"):
            function([np.ones(3)])


# --- equinox: its modules are dataclasses, known by the names of their classes -------------------


def module(kind, base="Module", **fields):
    """Return an object like equinox's: a frozen dataclass with a constructor of its own."""
    bases = (type(base, (), {}),)
    made = dataclasses.make_dataclass(kind, list(fields), bases=bases, frozen=True, init=False)
    instance = object.__new__(made)
    for name, value in fields.items():
        object.__setattr__(instance, name, value)
    return instance


def equinox_layer(kind, base="Module", **rest):
    return lambda arrays: module(kind, base, **arrays, **rest)


def equinox_mlp(arrays):
    layers = tuple(module("Linear", **arrays["layers"][str(i)], use_bias=True) for i in range(2))
    return module("MLP", layers=layers, activation=torch.relu, depth=1)


def equinox_attention(arrays):
    parts = {name: module("Linear", **values) for name, values in arrays.items()}
    return module("MultiheadAttention", **parts, num_heads=2, dropout=module("Dropout", p=0.0))


def run_mlp(params, x):
    layers = {"0": params["layers"]["0"], "2": params["layers"]["1"]}
    return nn.serial(nn.linear(5), nn.relu, nn.linear(3))(layers, x)


def run_cell(kind):
    run = cell(kind)

    def one(params, x, *carry):
        # torch's cells want a batch; an LSTM's carry is `(h, c)` in equinox, `(c, h)` in flax.
        return run(params, {}, x[None], *(part[None] for part in reversed(carry)))[0]

    return one


def of(layer):
    return lambda params, x, *carry: layer(params, x[None])[0]


EQUINOX = {
    "equinox_mlp": (equinox_mlp, run_mlp),
    "equinox_conv2d": (equinox_layer("Conv2d", "Conv"), of(nn.conv2d(3, 3, stride=2))),
    "equinox_conv_transpose": (
        equinox_layer("ConvTranspose2d", "ConvTranspose"),
        of(nn.conv_transpose2d(3, (3, 2), stride=2)),
    ),
    "equinox_embedding": (equinox_layer("Embedding"), of(nn.embedding(7, 4))),
    "equinox_layer_norm": (equinox_layer("LayerNorm", eps=1e-5), of(nn.layer_norm())),
    "equinox_group_norm": (equinox_layer("GroupNorm"), of(nn.group_norm(2))),
    "equinox_prelu": (
        equinox_layer("PReLU"),
        lambda params, x: functional.prelu(x, params["weight"]),
    ),
    "equinox_attention": (equinox_attention, of(nn.multi_head_attention(2))),
    "equinox_lstm_cell": (equinox_layer("LSTMCell", input_size=4), run_cell("lstm")),
    "equinox_gru_cell": (equinox_layer("GRUCell", input_size=4), run_cell("gru")),
}


@pytest.mark.parametrize("name", EQUINOX)
def test_a_module_of_equinox_computes_the_same_here(name):
    make, run = EQUINOX[name]
    arrays, x, y, carry = recorded(name)
    assert_same(name, run(interop.from_equinox(make(arrays)), x, *carry), y)


@pytest.mark.parametrize("name", EQUINOX)
def test_and_becomes_that_module_again(name):
    make, _ = EQUINOX[name]
    arrays, *_ = recorded(name)
    like = make(tree.map(np.zeros_like, arrays))
    back = interop.to_equinox(interop.from_equinox(make(arrays)), like)
    assert type(back) is type(like)
    wanted = tree.to_state_dict(interop.from_equinox(make(arrays)))
    found = tree.to_state_dict(interop.from_equinox(back))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert all(leaf.max() == 0 for leaf in tree.leaves(interop.from_equinox(like)))


def test_what_is_no_array_stays_in_the_module():
    like = module("Block", scale=np.ones(2), activation=math.tanh, parts=[module("Identity")])
    back = interop.to_equinox({"scale": torch.zeros(2)}, like)
    assert back.scale.tolist() == [0, 0]
    assert back.activation is math.tanh
    assert type(back.parts) is list


def test_projections_of_several_widths_keep_their_places():
    weights = [torch.full((2, width), float(width)) for width in (3, 4, 5)]
    packed = layouts.packed_projections(weights, [None, torch.ones(2), None])
    assert packed["k_proj_weight"].shape == (2, 4)
    assert packed["in_proj_bias"].tolist() == [0, 0, 1, 1, 0, 0]
    assert all(map(torch.equal, layouts.unpacked_projections(packed)[0], weights))


def test_the_longest_name_that_fits_counts():
    variables = {"a": {"b": dense()["params"]["Dense_0"]}}
    params, _ = interop.from_flax(variables, names={"a": "x", "a.b": "y"})
    assert list(params) == ["y"]


def test_halves_go_out():
    weight = torch.randn(3, 2).bfloat16()
    like = module("Linear", weight=np.ones((3, 2), ml_dtypes.bfloat16))
    back = interop.to_equinox({"weight": weight}, like).weight
    flax = interop.to_flax({"weight": weight}, {}, {"kernel": np.ones((2, 3))})["kernel"]
    for array in (back, flax.T):
        assert array.dtype == ml_dtypes.bfloat16
        assert torch.equal(interop.from_numpy(array), weight)
        array[0] = 5


def test_what_does_not_fit_the_module_is_refused():
    like = module("Linear", weight=np.ones((3, 2)), bias=np.ones(3))
    with pytest.raises(ValueError, match=r"missing names \['bias'\], unknown names \['bais'\]"):
        interop.to_equinox({"weight": torch.ones(3, 2), "bais": torch.ones(3)}, like)
    with pytest.raises(ValueError, match=r"'bias' has shape \(1,\), the module's has \(3,\)"):
        interop.to_equinox({"weight": torch.ones(3, 2), "bias": torch.ones(1)}, like)
    with pytest.raises(TypeError, match=r"expected tensors, got 'bias' = array"):
        interop.to_equinox({"weight": torch.ones(3, 2), "bias": np.ones(3)}, like)
    for function in (interop.from_equinox, lambda m: interop.to_equinox({}, m)):
        with pytest.raises(TypeError, match="expected an equinox module, got 3"):
            function(3)
