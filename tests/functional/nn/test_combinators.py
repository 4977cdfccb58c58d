import pytest
import torch

import purefn.functional as pf
from purefn.functional import nn, random, tree

KEY = random.key(0)


def equal(left, right):
    assert tree.structure(left) == tree.structure(right)
    return all(map(torch.equal, tree.leaves(left), tree.leaves(right)))


def small_network():
    """Return one model twice: ours and torch's, names and all."""
    ours = nn.serial(
        features=nn.serial(nn.conv2d(4, 3), nn.batch_norm(), torch.relu, nn.max_pool2d(2)),
        flat=nn.flatten(),
        head=nn.linear(3),
    )
    theirs = torch.nn.Sequential()
    theirs.add_module(
        "features",
        torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
        ),
    )
    theirs.add_module("flat", torch.nn.Flatten())
    theirs.add_module("head", torch.nn.Linear(16, 3))
    return ours, theirs


def test_a_torch_checkpoint_loads_and_goes_back(matches_torch):
    ours, theirs = small_network()
    x = torch.randn(5, 2, 6, 6)
    params, state = ours.init(KEY, x)
    names = {**tree.to_state_dict(params), **tree.to_state_dict(state)}
    assert names.keys() == theirs.state_dict().keys()

    theirs.load_state_dict(names)
    expected = theirs.eval()(x)
    assert torch.equal(ours(params, state, x)[0], expected)

    loaded = theirs.state_dict()
    again = [
        tree.from_state_dict({name: loaded[name] for name in tree.to_state_dict(part)}, like=part)
        for part in (params, state)
    ]
    assert equal(again[0], params)
    assert equal(again[1], state)
    matches_torch(ours, theirs, x, train=True)


def test_positional_names_are_those_of_sequential():
    layers = [nn.linear(2) for _ in range(11)]
    params = nn.serial(*layers).init(KEY, torch.ones(1, 2))
    module = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(11)])
    assert tree.to_state_dict(params).keys() == module.state_dict().keys()
    mixed = nn.serial(nn.relu, nn.linear(2), head=nn.linear(3)).init(KEY, torch.ones(1, 2))
    assert list(mixed) == ["1", "head"]


def test_stateful_only_when_a_part_is():
    assert isinstance(nn.serial(nn.linear(2), nn.relu), nn.Layer)
    assert isinstance(nn.serial(nn.linear(2), nn.batch_norm()), nn.StatefulLayer)
    assert isinstance(nn.serial(nn.serial(nn.batch_norm())), nn.StatefulLayer)
    assert isinstance(nn.parallel(nn.linear(2), nn.batch_norm()), nn.StatefulLayer)
    assert isinstance(nn.parallel(nn.linear(2)), nn.Layer)
    assert isinstance(nn.residual(nn.linear(2)), nn.Layer)
    assert isinstance(nn.residual(nn.batch_norm()), nn.StatefulLayer)
    assert isinstance(nn.residual(nn.linear(2), nn.batch_norm()), nn.StatefulLayer)


def test_an_empty_chain_is_the_identity():
    assert nn.serial().init(KEY, torch.ones(2)) == {}
    assert torch.equal(nn.serial()({}, torch.ones(2), key=KEY), torch.ones(2))
    assert nn.parallel()({}, torch.ones(2)) == ()


def test_a_part_with_empty_parameters_may_be_there_or_not():
    model = nn.serial(nn.relu, nn.linear(2))
    x = torch.randn(3, 4)
    params = model.init(KEY, x)
    assert torch.equal(model(params, x), model({"0": {}, **params}, x))


def test_parallel_gives_each_part_the_input():
    x = torch.randn(3, 4)
    a, b = nn.linear(2), nn.linear(5)
    params = nn.parallel(a, b=b).init(KEY, x)
    left, right = nn.parallel(a, b=b)(params, x)
    assert torch.equal(left, a(params["0"], x))
    assert torch.equal(right, b(params["b"], x))


def test_residual_adds_the_shortcut():
    x = torch.randn(3, 4)
    body, shortcut = nn.serial(nn.relu, nn.linear(2)), nn.linear(2, bias=False)
    block = nn.residual(body, shortcut)
    params = block.init(KEY, x)
    expected = shortcut(params["shortcut"], x) + body(params["body"], x)
    assert torch.equal(block(params, x), expected)
    plain = nn.residual(nn.linear(4))
    params = plain.init(KEY, x)
    assert list(params) == ["body"]
    assert torch.equal(plain(params, x), x + nn.linear(4)(params["body"], x))


def test_residual_in_training_hands_on_the_state_of_its_parts():
    x = torch.randn(6, 4)
    block = nn.residual(nn.serial(nn.linear(4), nn.batch_norm()), nn.batch_norm())
    params, state = block.init(KEY, x)
    y, new_state = block(params, state, x, train=True)
    shortcut = torch.nn.BatchNorm1d(4)
    body = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    body.load_state_dict({**body.state_dict(), **tree.to_state_dict(params["body"])})
    assert torch.allclose(y, shortcut(x) + body(x), atol=1e-6)
    assert torch.allclose(new_state["shortcut"]["running_mean"], shortcut.running_mean)
    assert torch.allclose(new_state["body"]["1"]["running_var"], body[1].running_var)


def test_each_part_receives_its_own_key():
    def recorder(seen):
        def init(key, x):
            seen.append(key)
            return {}

        def apply(params, x, *, key=None, train=False):
            seen.append(key)
            return x

        return nn.Layer(init, apply)

    seen = []
    model = nn.serial(recorder(seen), nn.serial(recorder(seen), recorder(seen)))
    model.init(KEY, torch.ones(2))
    drawn = [key for key in seen if key is not None]
    assert len({tuple(key.tolist()) for key in drawn}) == len(drawn) == 3
    seen.clear()
    model({}, torch.ones(2), key=KEY, train=True)
    top = random.split(KEY, 2)
    expected = [top[0], *random.split(top[1], 2)]
    assert all(map(torch.equal, seen, expected))
    seen.clear()
    model({}, torch.ones(2))
    assert seen == [None, None, None]


def test_two_dropouts_differ_and_repeat():
    model = nn.parallel(nn.dropout(0.5), nn.dropout(0.5))
    left, right = model({}, torch.ones(100), key=KEY, train=True)
    again, _ = model({}, torch.ones(100), key=KEY, train=True)
    assert torch.equal(left, again)
    assert not torch.equal(left, right)


def test_no_key_is_split_where_nothing_is_random(monkeypatch):
    plain = nn.serial(nn.linear(3), nn.residual(nn.batch_norm()), nn.parallel(torch.relu))
    x = torch.randn(2, 4)
    params, state = plain.init(KEY, x)
    noisy = nn.serial(nn.serial(nn.dropout(0.5)))

    def refuse(key, num=2):
        raise AssertionError("split")

    monkeypatch.setattr(random, "split", refuse)
    plain(params, state, x, key=KEY, train=True)
    with pytest.raises(AssertionError, match="split"):
        noisy({}, x, key=KEY, train=True)
    assert not plain.uses_key
    assert noisy.uses_key


def nested():
    return nn.serial(
        stem=nn.conv2d(4, 3),
        features=nn.serial(
            nn.residual(nn.serial(drop=nn.dropout(0.5), conv2=nn.conv2d(4, 3, padding=1))),
            nn.parallel(left=nn.max_pool2d(2), right=lambda x: x.flatten(1).reshape(-1, 8)),
        ),
    )


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (
            (2, 3, 8, 8),
            {},
            r"^model\['stem'\]: conv2d expected .*\(N, 1, H, W\).*got \(2, 3, 8, 8\)",
        ),
        (
            (2, 1, 8, 8),
            {"train": True},
            r"^model\['features'\]\['0'\]\['body'\]\['drop'\]: dropout needs a key",
        ),
        (
            (2, 1, 3, 3),
            {},
            r"^model\['features'\]\['1'\]\['left'\]: max_pool2d .*got shape \(2, 4, 1, 1\)",
        ),
        (
            (1, 1, 5, 5),
            {},
            r"^model\['features'\]\['1'\]\['right'\]: <lambda> failed on a torch.float32 tensor of "
            r"shape \(1, 4, 3, 3\): shape '\[.*-1, 8\]' is invalid",
        ),
    ],
)
def test_errors_name_the_path(shape, options, message):
    model = nested()
    params = model.init(KEY, torch.ones(2, 1, 8, 8))
    with pytest.raises(nn.LayerError, match=message) as caught:
        model(params, torch.ones(shape), **options)
    assert isinstance(caught.value, ValueError)
    if shape[1] == 1 and not options:
        with pytest.raises(nn.LayerError, match=message):
            model.init(KEY, torch.ones(shape))
    with pytest.raises(nn.LayerError, match=message):
        pf.vmap(lambda x: model(params, x, **options))(torch.ones(3, *shape))
    with pytest.raises(nn.LayerError, match=message):
        pf.grad(lambda p: sum(y.sum() for y in model(p, torch.ones(shape), **options)))(params)


def test_the_shape_error_survives_compilation():
    model = nested()
    params = model.init(KEY, torch.ones(2, 1, 8, 8))
    compiled = pf.jit(lambda params, x: model(params, x), backend="eager")
    with pytest.raises(nn.LayerError, match=r"^model\['stem'\]: conv2d expected an input of shape"):
        compiled(params, torch.ones(2, 3, 8, 8))


def test_parameters_that_do_not_fit_are_named():
    model = nn.serial(features=nn.serial(fc=nn.linear(3)), head=nn.linear(2))
    x = torch.ones(4, 5)
    params = model.init(KEY, x)
    with pytest.raises(
        nn.LayerError, match=r"serial got parameters for \['tail'\]; its parts are \['f"
    ):
        model({**params, "tail": params["head"]}, x)
    with pytest.raises(nn.LayerError, match=r"^model\['features'\]: serial got .*\['weight'\]"):
        model({**params, "features": {"weight": torch.ones(1)}}, x)
    with pytest.raises(
        nn.LayerError, match=r"^model\['head'\]: linear expected a dict of \['bias', 'w"
    ):
        model({"features": params["features"]}, x)
    with pytest.raises(
        nn.LayerError, match=r"serial expected parameters as a dict .* \(params, x\)"
    ):
        model(x, params)
    stateful = nn.serial(norm=nn.batch_norm())
    params, state = stateful.init(KEY, x)
    with pytest.raises(
        nn.LayerError, match=r"^model\['norm'\]: batch_norm expected .*running_mean"
    ):
        stateful(params, {}, x)
    with pytest.raises(nn.LayerError, match=r"got a state for \['other'\]"):
        stateful(params, {**state, "other": {}}, x)
    with pytest.raises(nn.LayerError, match="serial expected a state as a dict"):
        stateful(params, None, x)


def test_residual_names_the_parts_it_does_not_have():
    block = nn.residual(nn.linear(4))
    with pytest.raises(nn.LayerError, match=r"residual got parameters for \['weight'\]; its parts"):
        block({"weight": torch.ones(4, 4)}, torch.ones(3, 4))


def test_residual_never_broadcasts():
    block = nn.serial(block=nn.residual(nn.linear(1)))
    with pytest.raises(nn.LayerError, match=r"\['block'\]: residual .*\(3, 1\) and .*\(3, 4\)"):
        block.init(KEY, torch.ones(3, 4))
    with pytest.raises(nn.LayerError, match=r"one shape and dtype, got .*\(3, 1\) and .*\(3, 4\)"):
        nn.residual(nn.linear(1)).init(KEY, torch.ones(3, 4))
    params = {"body": nn.linear(1).init(KEY, torch.ones(3, 4))}
    with pytest.raises(nn.LayerError, match=r"one shape and dtype, got .*\(3, 1\) and .*\(3, 4\)"):
        nn.residual(nn.linear(1))(params, torch.ones(3, 4))


@pytest.mark.parametrize(
    ("body", "given"),
    [
        (lambda x: x > 0, r"a torch.bool tensor of shape \(3, 4\)"),
        (lambda x: x.double(), r"a torch.float64 tensor of shape \(3, 4\)"),
        (nn.parallel(nn.relu, nn.relu), "a tuple of length 2"),
        (lambda x: {"y": x}, r"a dict of \['y'\]"),
        (lambda x: 1.0, "float 1.0"),
    ],
)
def test_residual_adds_nothing_but_two_tensors_of_one_dtype(body, given):
    x = torch.ones(3, 4)
    message = rf"residual expected .*one shape and dtype, got {given} and a torch.float32 tensor"
    with pytest.raises(nn.LayerError, match=message):
        nn.residual(body)({}, x)
    if given != "float 1.0":  # eval_shape makes tensors of numbers, of another shape
        with pytest.raises(nn.LayerError, match=message):
            nn.residual(body).init(KEY, x)


def test_residual_adds_what_autocast_converted():
    block, x = nn.residual(nn.linear(4)), torch.ones(3, 4)
    params = block.init(KEY, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert block(params, x).dtype == torch.float32
        with pytest.raises(nn.LayerError, match=r"got a torch.bool tensor"):
            nn.residual(lambda x: x > 0)({}, x)


@pytest.mark.parametrize("key", [0, None, torch.ones(2), torch.zeros(3, dtype=torch.uint32)])
@pytest.mark.parametrize("model", [nn.serial(nn.linear(2)), nn.serial(nn.relu), nn.serial()])
def test_init_names_a_wrong_key(key, model):
    with pytest.raises((TypeError, ValueError), match=r"^serial.init: .*random.key\(seed\)"):
        model.init(key, torch.ones(2, 3))


@pytest.mark.parametrize("part", [torch.nn.ReLU(), torch.nn.Linear(2, 2)])
def test_modules_are_refused(part):
    with pytest.raises(TypeError, match=r"serial: part 'act': .*torch.nn.Module .*torch.relu"):
        nn.serial(act=part)


@pytest.mark.parametrize("part", [None, 3, "relu", [nn.relu], torch.ones(2)])
def test_what_is_no_layer_is_refused(part):
    with pytest.raises(TypeError, match=r"parallel: part '0': expected a Layer or a function, got"):
        nn.parallel(part)
    with pytest.raises(TypeError, match=r"residual: part 'body': expected a Layer or a function"):
        nn.residual(part)


def test_a_factory_that_was_not_called_is_named():
    model = nn.serial(act=nn.relu, head=nn.linear)
    with pytest.raises(nn.LayerError, match=r"^model\['head'\]: linear .*integer for out_features"):
        model.init(KEY, torch.ones(2, 3))


def test_part_names_are_unique_and_without_dots():
    with pytest.raises(ValueError, match=r"serial: .*unique and without dots, got '0'"):
        nn.serial(nn.relu, **{"0": nn.relu})
    with pytest.raises(ValueError, match=r"without dots, got 'a.b'"):
        nn.serial(**{"a.b": nn.relu})


def test_init_computes_nothing_on_the_batch():
    counted = []

    def count(x):
        counted.append(type(x))
        return x

    nn.serial(count, nn.linear(2)).init(KEY, pf.ShapeDtype((1 << 40, 3)))
    assert torch.Tensor not in counted
    assert counted


def test_init_compiles_and_maps():
    model = nn.serial(nn.batch_norm(), nn.linear(2))
    x = torch.ones(1, 4)
    compiled = pf.jit(lambda key: model.init(key, x), backend="eager")(KEY)
    assert all(map(torch.allclose, tree.leaves(compiled), tree.leaves(model.init(KEY, x))))
    keys = random.split(KEY, 3)
    batch = pf.vmap(lambda key: model.init(key, x))(keys)
    for index in range(3):
        one = tree.map(lambda leaf, index=index: leaf[index], batch)
        assert all(map(torch.allclose, tree.leaves(one), tree.leaves(model.init(keys[index], x))))


def test_parameters_take_the_dtype_of_the_example():
    model = nn.serial(nn.conv1d(2, 3), nn.batch_norm(), nn.layer_norm(), nn.linear(2))
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        params, state = model.init(KEY, pf.ShapeDtype((2, 3, 9), dtype))
        assert {leaf.dtype for leaf in tree.leaves(params)} == {dtype}
        assert {leaf.dtype for leaf in tree.leaves(state)} == {dtype, torch.int64}


def only_if_positive(x):
    return x if x.sum() > 0 else -x


def test_a_value_needed_in_tracing_is_not_the_layers_error():
    model, x = nn.serial(branch=only_if_positive), torch.ones(3)
    assert torch.equal(model({}, x), x)
    with pytest.raises(pf.TraceError, match=r"test_combinators.py:\d+, in only_if_positive"):
        pf.jit(lambda x: model({}, x), backend="eager")(x)
    with pytest.raises(ValueError, match="eval_shape: fun looks at the value") as caught:
        model.init(KEY, x)
    assert not isinstance(caught.value, nn.LayerError)


def test_a_lack_of_memory_is_not_the_layers_error():
    def exhaust(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory"):
        nn.serial(exhaust)({}, torch.ones(3))


def test_lift():
    layer = nn.lift(torch.sin)
    x = torch.randn(3)
    assert layer.init(KEY, x) == {}
    assert torch.equal(layer({}, x), torch.sin(x))
    with pytest.raises(nn.LayerError, match=r"sin has no parameters, got a dict of \['weight'\]"):
        layer({"weight": x}, x)
    with pytest.raises(nn.LayerError, match=r"tangent failed on None|tangent failed on NoneType"):
        nn.lift(torch.tan, "tangent")({}, None)
