"""Attention against torch's and against its formula, under every transform, and token by token."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import nn, random, tree
from purefn.functional.nn import attending


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def some(*shape, seed=0):
    return normal(*shape, seed=seed) > 0


def formula(q, k, v, mask=None, causal=False, drop=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ v


# --- Against torch -------------------------------------------------------------------------------


def as_torch(mask, heads):
    """Return a mask as torch's module wants it: True is left out, and batch and head are one."""
    if mask is None:
        return None
    if mask.ndim == 4:
        mask = mask.expand(-1, heads, -1, -1).flatten(0, 1)
    return ~mask if mask.dtype == torch.bool else mask


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_settings_against_torch(data, from_module, is_close):
    heads = data.draw(st.sampled_from([1, 2, 4]), "heads")
    length, memory_length = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    key_width = data.draw(st.sampled_from([4, 3]), "width of the keys")
    value_width = data.draw(st.sampled_from([4, 3]), "width of the values")
    added = {name: data.draw(st.booleans(), name) for name in ("add_bias_kv", "add_zero_attn")}
    batch = data.draw(st.sampled_from([(), (2,)]), "batch")
    kind = data.draw(st.sampled_from([None, "bool", "float", "each"]), "mask")
    kind = "bool" if kind == "each" and not batch else kind
    bias = data.draw(st.booleans(), "bias")
    widths = {"kdim": key_width, "vdim": value_width}
    module = torch.nn.MultiheadAttention(
        4, heads, bias=bias, **widths, **added, batch_first=True, dtype=torch.float64
    )
    query, keys = normal(*batch, length, 4), normal(*batch, memory_length, key_width, seed=1)
    values = normal(*batch, memory_length, value_width, seed=2)
    shape = (length, memory_length)
    mask = {None: None, "bool": some(*shape), "float": normal(*shape), "each": some(2, 1, *shape)}
    mask = mask[kind]
    if mask is not None and mask.dtype == torch.bool:
        mask = mask | (torch.arange(memory_length) == 0)
    params, _ = from_module(module)
    layer = nn.multi_head_attention(heads, bias=bias, **added)
    drawn = layer.init(random.key(0), (query, (keys, values)))
    assert tree.structure(drawn) == tree.structure(params)
    grads, y = pf.grad(
        lambda p, q, k, v: (lambda y: (y.square().sum(), y))(layer(p, (q, (k, v), mask))),
        argnums=(0, 1, 2, 3), has_aux=True,
    )(params, query, keys, values)  # fmt: skip
    inputs = query.requires_grad_(), keys.requires_grad_(), values.requires_grad_()
    expected = module(*inputs, attn_mask=as_torch(mask, heads), need_weights=False)[0]
    expected.square().sum().backward()
    is_close(y, expected.detach(), "output")
    for ours, theirs in zip(grads[1:], inputs, strict=True):
        is_close(ours, theirs.grad, "gradient of an input")
    named = tree.to_state_dict(grads[0])
    for name, parameter in module.named_parameters():
        is_close(named[name], parameter.grad, name)


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_layers_with_masks_against_torch(norm_first, from_module, is_close):
    options = {"norm_first": norm_first, "dropout": 0.0}
    factory = {**options, "batch_first": True, "dtype": torch.float64}
    x, memory = normal(2, 5, 4), normal(2, 3, 4, seed=1)
    causal = torch.ones(5, 5).tril().bool()
    is_token = torch.tensor([[True] * 3, [True, True, False]])
    module = torch.nn.TransformerDecoderLayer(4, 2, 8, **factory)
    params, _ = from_module(module)
    expected = module(x, memory, tgt_mask=~causal, memory_key_padding_mask=~is_token)
    across = is_token[:, None, None]
    plain = nn.transformer_decoder_layer(2, 8, **options)
    is_close(plain(params, (x, memory, causal, across)), expected.detach(), "decoder")
    ours = nn.transformer_decoder_layer(2, 8, causal=True, **options)
    is_close(ours(params, (x, memory, None, across)), expected.detach(), "causal decoder")
    unbatched = ours(params, (x[1], memory[1, :2]))
    is_close(unbatched, expected[1].detach(), "unbatched decoder")

    module = torch.nn.TransformerEncoderLayer(4, 2, 8, **factory)
    params, _ = from_module(module)
    expected = module(memory, src_key_padding_mask=~is_token)
    ours = nn.transformer_encoder_layer(2, 8, **options)
    is_close(ours(params, (memory, across)), expected.detach(), "encoder")


# --- Against the formula -------------------------------------------------------------------------


def published(heads):
    """Return the slopes of between 8 and 16 heads, in float64."""
    return [2.0**-i for i in range(1, 9)] + [2.0 ** -(i + 0.5) for i in range(heads - 8)]


def test_grouped_heads_are_repeated_ones(is_close):
    x = normal(2, 3, 8)
    grouped = nn.multi_head_attention(4, kv_heads=2)
    params = grouped.init(random.key(0), x)
    assert params["k_proj_weight"].shape == (4, 8)
    assert params["in_proj_bias"].shape == (16,)
    params["in_proj_bias"] = normal(16, seed=3)

    def repeated(w):
        return w.unflatten(0, (2, 2)).repeat_interleave(2, 0).flatten(0, 1)

    q, k, v = params["in_proj_bias"].split([8, 4, 4])
    k_weight, v_weight = params["k_proj_weight"], params["v_proj_weight"]
    full = {
        "in_proj_weight": torch.cat(
            [params["q_proj_weight"], repeated(k_weight), repeated(v_weight)]
        ),
        "in_proj_bias": torch.cat([q, repeated(k), repeated(v)]),
        "out_proj": params["out_proj"],
    }
    is_close(grouped(params, x), nn.multi_head_attention(4)(full, x), "output")


@pytest.mark.parametrize("slopes", [[1 / 16, 1 / 256], [1 / 16, 1 / 256, 1 / 4], published(12)])
def test_linear_biases(slopes, is_close):
    heads = len(slopes)
    x = normal(1, 4, 2 * heads)
    layer = nn.multi_head_attention(heads, alibi=True, bias=False)
    params = layer.init(random.key(0), x)
    q, k, v = (x @ params["in_proj_weight"].T).unflatten(-1, (3, heads, 2)).unbind(-3)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    distance = (torch.arange(4)[:, None] - torch.arange(4)).abs()
    bias = -torch.tensor(slopes, dtype=torch.float64)[:, None, None] * distance
    out, added = params["out_proj"]["weight"].T, normal(4, 4, seed=2)
    seen = some(4, 4, seed=3) | torch.eye(4).bool()
    for mask, scores in (
        (None, bias),
        (added, bias + added),
        (seen, bias.masked_fill(~seen, -torch.inf)),
    ):
        y = formula(q, k, v, scores).transpose(1, 2).flatten(2)
        is_close(layer(params, (x, None, mask)), y @ out, "output")


def test_causal_attention_sees_no_later_position_whatever_else_is_asked():
    x = normal(1, 5, 4)
    changed = torch.cat([x[:, :3], normal(1, 2, 4, seed=7)], 1)
    mask = torch.zeros(5, 5, dtype=torch.float64)
    for options in ({}, {"alibi": True}, {"rotary": nn.rotary}):
        layer = nn.multi_head_attention(2, causal=True, **options)
        params = layer.init(random.key(0), x)
        for extra in (None, mask, mask == 0):
            y, z = layer(params, (x, None, extra)), layer(params, (changed, None, extra))
            assert torch.equal(y[:, :3], z[:, :3])
            assert not torch.allclose(y[:, 3:], z[:, 3:])


@pytest.mark.parametrize("options", [{}, {"alibi": True}])
def test_a_mask_may_have_another_dtype(options, is_close):
    x, mask = normal(2, 3, 4), normal(3, 3)
    layer = nn.multi_head_attention(2, **options)
    params = layer.init(random.key(0), x)
    expected = layer(params, (x, None, mask.float().double()))
    is_close(layer(params, (x, None, mask.float())), expected, "float32 beside float64")
    halves = tree.cast(params, torch.bfloat16), x.bfloat16()
    y = layer(halves[0], (halves[1], None, mask))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=0.05)
    whole = pf.vmap(lambda x: layer(halves[0], (x, None, mask)))(halves[1])
    assert whole.dtype == torch.bfloat16


@pytest.mark.parametrize("added", [False, True])
def test_a_position_that_sees_nothing_gets_zero_and_finite_derivatives(added, is_close):
    q, k, v = normal(3, 1, 2, 3, 4).unbind()
    mask = torch.tensor([[True, False, True], [False] * 3, [True] * 3])
    mask = torch.where(mask, 0.0, -torch.inf).double() if added else mask

    def energy(q):
        y = attending.attend(q, k, v, mask)
        return y.square().sum(), y

    grad, y = pf.grad(energy, has_aux=True)(q)
    tangent = pf.jvp(lambda q: energy(q)[0], (q,), (torch.ones_like(q),))[1]
    batched, z = pf.vmap(pf.grad(energy, has_aux=True))(q[None])
    assert not y[..., 1, :].any()
    assert not grad[..., 1, :].any()
    is_close(z[0], y, "output by the formula")
    is_close(batched[0], grad, "gradient by the formula")
    is_close(tangent, grad.sum(), "directional derivative")


@pytest.mark.parametrize("options", [{}, {"alibi": True}, {"rotary": nn.rotary}])
def test_what_is_added_is_seen_from_everywhere_and_has_no_position(options, is_close):
    x, values = normal(2, 5, 4), normal(2, 5, 4, seed=1)
    added = nn.multi_head_attention(
        2, kv_heads=1, causal=True, add_bias_kv=True, add_zero_attn=True, **options
    )
    params = added.init(random.key(0), x)
    assert params["bias_k"].shape == params["bias_v"].shape == (1, 1, 2)
    hidden = torch.zeros(5, 1, dtype=torch.bool)
    y = added(params, (x, (None, values), hidden))
    q = (x @ params["q_proj_weight"].T).unflatten(-1, (2, 2)).transpose(1, 2)
    q = nn.rotary(q) if "rotary" in options else q
    keys = torch.stack([params["bias_k"][0, 0], torch.zeros(2, dtype=torch.float64)])
    rows = torch.stack([params["bias_v"][0, 0], torch.zeros(2, dtype=torch.float64)])
    expected = formula(q, keys, rows).transpose(1, 2).flatten(2)
    is_close(y, expected @ params["out_proj"]["weight"].T, "output")
    # What is not hidden is seen as without them, with a smaller share.
    plain = nn.multi_head_attention(2, kv_heads=1, causal=True, **options)
    own = {name: value for name, value in params.items() if name not in ("bias_k", "bias_v")}
    far = {**params, "bias_v": params["bias_v"] * 0}
    ratio = added(far, (x, (None, values))) @ torch.linalg.inv(params["out_proj"]["weight"]).T
    whole = plain(own, (x, (None, values))) @ torch.linalg.inv(params["out_proj"]["weight"]).T
    share = (ratio / whole).unflatten(-1, (2, 2))
    is_close(share[..., 0], share[..., 1], "one share for each head")
    assert share.clamp(0, 1).eq(share).all()


def test_parameters_are_drawn_as_in_torch():
    x = torch.ones(2, 3, 256)
    params = nn.multi_head_attention(4, add_bias_kv=True).init(random.key(0), x)
    apart = nn.multi_head_attention(4).init(random.key(0), (x, (x[..., :64], x[..., :128])))
    bounds = {
        "in_proj_weight": (params, math.sqrt(6 / (4 * 256))),
        "q_proj_weight": (apart, math.sqrt(6 / (256 + 256))),
        "k_proj_weight": (apart, math.sqrt(6 / (256 + 64))),
        "v_proj_weight": (apart, math.sqrt(6 / (256 + 128))),
        "weight": (params["out_proj"], 1 / 16),
    }
    for name, (parameters, bound) in bounds.items():
        largest = parameters[name].abs().max().item()
        assert 0.99 * bound < largest <= bound, name
    for value in (params["in_proj_bias"], params["out_proj"]["bias"]):
        assert not value.any()
    for name in ("bias_k", "bias_v"):
        assert params[name].std().item() == pytest.approx(1 / 16, rel=0.2)
    assert not torch.equal(params["bias_k"], params["bias_v"])


def test_values_may_differ_from_keys_that_are_the_querys(is_close):
    x, position = normal(2, 5, 4), normal(2, 5, 4, seed=1)
    module = torch.nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64)
    params = tree.from_state_dict(module.state_dict())
    seen = torch.ones(5, 5).tril().bool()
    expected = module(x + position, x + position, x, attn_mask=~seen)[0].detach()
    y = nn.multi_head_attention(2, causal=True)(params, (x + position, (None, x)))
    is_close(y, expected, "output")


# --- Transforms ----------------------------------------------------------------------------------

LAYER = nn.multi_head_attention(2, causal=True)
X = normal(2, 3, 4)
PARAMS = LAYER.init(random.key(0), X)


def energy(x):
    return LAYER(PARAMS, x).square().sum()


def plain_energy(x):
    q, k, v = (x @ PARAMS["in_proj_weight"].T).unflatten(-1, (3, 2, 2)).unbind(-3)
    y = formula(*(part.transpose(-3, -2) for part in (q, k, v)), causal=True)
    return (y.transpose(-3, -2).flatten(-2) @ PARAMS["out_proj"]["weight"].T).square().sum()


XS = normal(3, 2, 3, 4, seed=2)
TRANSFORMS = {
    "grad": lambda f: pf.grad(f)(X),
    "jvp": lambda f: torch.stack(pf.jvp(f, (X,), (XS[0],))),
    "jacfwd": lambda f: pf.jacfwd(f)(X),
    "hessian": lambda f: pf.hessian(f)(X),
    "hvp": lambda f: pf.hvp(f, (X,), (XS[0],)),
    "grad of grad": lambda f: pf.grad(lambda x: pf.grad(f)(x).square().sum())(X),
    "vmap": lambda f: pf.vmap(f)(XS),
    "vmap of grad": lambda f: pf.vmap(pf.grad(f))(XS),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name, is_close):
    transform = TRANSFORMS[name]
    expected = transform(plain_energy)
    is_close(transform(energy), expected, name)
    compiled = pf.jit(lambda: transform(energy), backend="aot_eager")
    is_close(compiled(), expected, f"compiled {name}")


def test_torchs_kernel_serves_ordinary_training_and_no_other(monkeypatch):
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, **kwargs):
        calls.append(args[0].ndim)
        return fused(*args, **kwargs)

    monkeypatch.setattr(attending.F, "scaled_dot_product_attention", spy)
    energy(X), energy(X[0]), pf.grad(energy)(X)
    assert calls == [4, 4, 4]
    (
        pf.vmap(energy)(XS),
        pf.jvp(energy, (X,), (X,)),
        pf.grad(pf.grad(lambda s: energy(s * X)))(torch.tensor(1.0, dtype=torch.float64)),
    )
    dropping = nn.multi_head_attention(2, dropout=0.5)
    dropping(PARAMS, X, key=random.key(0), train=True)
    assert calls == [4, 4, 4]


def test_dropout_drops_weights_and_keeps_the_mean():
    layer = nn.multi_head_attention(2, dropout=0.5)
    apply = functools.partial(layer, PARAMS, X, train=True)
    assert torch.equal(apply(key=random.key(1)), apply(key=random.key(1)))
    assert not torch.equal(apply(key=random.key(1)), apply(key=random.key(2)))
    mean = pf.vmap(lambda key: apply(key=key))(random.split(random.key(3), 4000)).mean(0)
    torch.testing.assert_close(mean, layer(PARAMS, X), rtol=0, atol=0.03)
    with pytest.raises(nn.LayerError, match="dropout needs a key in training"):
        apply()
    assert not LAYER.uses_key
    assert layer.uses_key


# --- Token by token ------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_decoding_in_pieces_is_the_whole(data, is_close):
    options = data.draw(
        st.sampled_from([{}, {"kv_heads": 1}, {"rotary": nn.rotary}, {"alibi": True}])
    )
    bias = data.draw(st.booleans())
    batch = data.draw(st.sampled_from([(), (2,)]))
    cuts = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    x = normal(*batch, sum(cuts), 4)
    decode = nn.cached_attention(2, 12, bias=bias, **options)
    params, cache = decode.init(random.key(0), x)
    whole = nn.multi_head_attention(2, causal=True, bias=bias, **options)
    assert tree.all(tree.map(torch.equal, params, whole.init(random.key(0), x)))
    pieces = []
    for piece in x.split(cuts, -2):
        y, cache = decode(params, cache, piece)
        pieces.append(y)
    is_close(torch.cat(pieces, -2), whole(params, x), "output")
    assert cache["position"] == x.shape[-2]


def test_one_program_decodes_every_token():
    decode = nn.cached_attention(2, 4, rotary=nn.rotary)
    x = normal(2, 5, 4)
    params, cache = decode.init(random.key(0), x[:, :1])
    step = pf.jit(decode.apply, backend="aot_eager")
    ys = []
    for position in range(5):
        y, cache = step(params, cache, x[:, position : position + 1])
        ys.append(y)
    whole = nn.multi_head_attention(2, causal=True, rotary=nn.rotary)(params, x[:, :4])
    torch.testing.assert_close(torch.cat(ys[:4], 1), whole, rtol=0, atol=1e-12)
    assert ys[4].isnan().all()
    assert str(pf.explain_retraces(step)).endswith("apply was traced once.")


def test_a_scan_decodes(is_close):
    decode = nn.cached_attention(2, 4)
    x = normal(2, 4, 4)
    params, cache = decode.init(random.key(0), x[:, :1])

    def step(cache, token):
        y, cache = decode(params, cache, token[:, None])
        return cache, y[:, 0]

    _, ys = pf.scan(step, cache, x.movedim(1, 0))
    is_close(ys.movedim(0, 1), nn.multi_head_attention(2, causal=True)(params, x), "output")


def test_a_cache_keeps_its_dtype_beside_halves_and_takes_no_tokens_at_all():
    decode = nn.cached_attention(2, 4)
    params, cache = decode.init(random.key(0), X.float())
    y, new = decode(tree.cast(params, torch.bfloat16), cache, X.bfloat16())
    assert y.dtype == torch.bfloat16
    assert new["keys"].dtype == new["values"].dtype == torch.float32
    y, same = decode(params, cache, X[:, :0].float())
    assert y.shape == (2, 0, 4)
    assert tree.all(tree.map(torch.equal, same, cache))
    outside = {**cache, "position": torch.tensor(-1)}
    assert pf.jit(decode.apply, backend="aot_eager")(params, outside, X.float())[0].isnan().all()


def test_a_cache_that_does_not_fit_is_refused():
    decode = nn.cached_attention(2, 4)
    params, cache = decode.init(random.key(0), X)
    _, cache = decode(params, cache, X)
    with pytest.raises(nn.LayerError, match="at most max_length=4 positions, got 3 more after 3"):
        decode(params, cache, X)
    with pytest.raises(nn.LayerError, match=r"'keys' to be a tensor of shape \(1, 2, 4, 2\)"):
        decode(params, cache, X[:1])
    with pytest.raises(nn.LayerError, match=r"expected a dict of \['keys', 'position', 'values'\]"):
        decode(params, {}, X)
    _, cache = decode.init(random.key(0), X)
    with pytest.raises(nn.LayerError, match="max_length=4 positions, got 3 more after -1"):
        decode(params, {**cache, "position": torch.tensor(-1)}, X)
    with pytest.raises(nn.LayerError, match=r"an integer for .position., got a torch\.float64"):
        decode(params, {**cache, "position": cache["position"].double()}, X)
    with pytest.raises(nn.LayerError, match=r"torch\.float64 and .keys. of torch\.float32"):
        decode(params, tree.cast(cache, torch.float32), X)
    with pytest.raises(ValueError, match="cached_attention: expected max_length >= 1, got 0"):
        nn.cached_attention(2, 0)


# --- Refusals ------------------------------------------------------------------------------------

OPTIONS = [
    ({"num_heads": 0}, ValueError, "expected num_heads >= 1, got 0"),
    ({"num_heads": 4, "kv_heads": 3}, ValueError, "kv_heads to divide num_heads=4, got 3"),
    ({"num_heads": 2, "kv_heads": 2.0}, TypeError, "expected an integer for kv_heads, got 2.0"),
    ({"num_heads": 2, "bias": 4}, TypeError, "expected True or False for bias, got 4"),
    ({"num_heads": 2, "causal": None}, TypeError, "expected True or False for causal, got None"),
    ({"num_heads": 2, "alibi": 1}, TypeError, "expected True or False for alibi, got 1"),
    ({"num_heads": 2, "add_bias_kv": 1}, TypeError, "True or False for add_bias_kv, got 1"),
    ({"num_heads": 2, "add_zero_attn": 0}, TypeError, "True or False for add_zero_attn, got 0"),
    ({"num_heads": 2, "rotary": True}, TypeError, "nn.rotary or a partial of it .*, got True"),
    ({"num_heads": 2, "dropout": 2}, ValueError, r"probability p within \[0, 1\], got 2"),
]


@pytest.mark.parametrize(("options", "error", "message"), OPTIONS)
def test_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        nn.multi_head_attention(**options)


INPUTS = {
    "vector": (X[0, 0], r"input of shape \(L, 4\), got \(4,\)"),
    "width": (normal(2, 3, 5), r"input of shape \(N, L, 4\), got \(2, 3, 5\)"),
    "integers": (X.long(), "expected a floating-point input, got torch.int64"),
    "dtype": (X.float(), "input of torch.float32 and 'in_proj_weight' of torch.float64"),
    "count": ((X,), r"\(query, memory\) or \(query, memory, mask\), got a tuple of length 1"),
    "batch": ((X, X[:1]), r"one batch and dtype, got .*\(2, 3, 4\) and .*\(1, 3, 4\)"),
    "dtypes": ((X, X.float()), "one batch and dtype, got a torch.float64.* and a torch.float32"),
    "memory": ((X, (X,)), r"\(keys, values\) for a memory, got a tuple of length 1"),
    "values": ((X, (X, X[:, :2])), r"as many keys as values, got .*\(2, 3, 4\) and .*\(2, 2, 4\)"),
    "width of values": ((X, (X, normal(2, 3, 5))), r"shape \(N, S, 4\), got \(2, 3, 5\)"),
    "batch of values": ((X, (X, X[0])), r"one batch and dtype, got .*\(2, 3, 4\) and .*\(3, 4\)"),
    "mask": ((X, X, some(2, 3)), r"broadcasts to \(2, 2, 3, 3\), got .*\(2, 3\)"),
    "padding": ((X, None, some(2, 1, 3)[..., :2]), r"broadcasts to \(2, 2, 3, 3\)"),
    "kind": ((X, None, some(3, 3).long()), "boolean mask, where True takes part, .*int64"),
    "list": ((X, None, [True]), r"broadcasts to \(2, 2, 3, 3\), got a list of length 1"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_are_refused(name):
    x, message = INPUTS[name]
    with pytest.raises(nn.LayerError, match=message):
        nn.multi_head_attention(2)(PARAMS, x)


def test_init_refuses_what_use_refuses():
    with pytest.raises(nn.LayerError, match=r"input of shape \(S, M\), got \(4,\)"):
        LAYER.init(random.key(0), (X, X[0, 0]))
    with pytest.raises(nn.LayerError, match="as many keys as values"):
        LAYER.init(random.key(0), (X, (X, X[:, :2])))
    with pytest.raises(nn.LayerError, match=r"expected a floating-point input, got torch\.int64"):
        nn.cached_attention(2, 4).init(random.key(0), X.long())


def test_values_in_the_place_of_the_mask_are_told_where_they_belong():
    with pytest.raises(nn.LayerError, match=r"\(2, 3, 4\); values .*, \(query, \(keys, values\)\)"):
        nn.multi_head_attention(2)(PARAMS, (X, X, X))


def test_what_is_about_one_sequence_is_refused_with_a_memory():
    for options in ({"causal": True}, {"rotary": nn.rotary}, {"alibi": True}):
        with pytest.raises(nn.LayerError, match="no memory besides the query"):
            nn.multi_head_attention(2, **options)(PARAMS, (X, X + 1))


def test_features_that_heads_do_not_divide_are_refused():
    with pytest.raises(nn.LayerError, match="features that num_heads=3 divides, got 4"):
        nn.multi_head_attention(3).init(random.key(0), X)
    with pytest.raises(nn.LayerError, match="features that num_heads=3 divides, got 4"):
        nn.multi_head_attention(3)(PARAMS, X)
    with pytest.raises(nn.LayerError, match="features that num_heads=2 divides, got 0"):
        LAYER.init(random.key(0), X[..., :0])
    with pytest.raises(nn.LayerError, match="the order of arguments"):
        LAYER(X, PARAMS)
    with pytest.raises(nn.LayerError, match=r"flat state dict of .*with tree\.from_state_dict"):
        LAYER(tree.to_state_dict(PARAMS), X)


def test_transformer_layers_say_which_part_refuses():
    layer = nn.transformer_encoder_layer(2, 8)
    params = layer.init(random.key(0), X)
    model = nn.serial(block=layer)
    with pytest.raises(nn.LayerError, match=r"^model\['block'\]\['self_attn'\]: multi_head_att"):
        model({"block": params}, normal(2, 3, 6))
    with pytest.raises(nn.LayerError, match=r"\['linear1'\]: linear expected a dict"):
        layer({name: value for name, value in params.items() if name != "linear1"}, X)
    with pytest.raises(nn.LayerError, match="dropout needs a key"):
        layer(params, X, train=True)
    with pytest.raises(nn.LayerError, match=r"a tensor or \(x, mask\), got a tuple of length 3"):
        layer(params, (X, None, None))
    decoder = nn.transformer_decoder_layer(2, 8)
    for x in (X, (X, None)):
        with pytest.raises(nn.LayerError, match=r"expected \(x, memory\), \(x, memory, mask\) or"):
            decoder.init(random.key(0), x)


@pytest.mark.parametrize("make", [nn.transformer_encoder_layer, nn.transformer_decoder_layer])
def test_transformer_options_are_refused(make):
    name = make.__name__
    with pytest.raises(ValueError, match=f"{name}: expected dim_feedforward >= 1, got 0"):
        make(2, 0)
    for option in ("norm_first", "bias", "causal"):
        with pytest.raises(TypeError, match=f"expected True or False for {option}, got 0"):
            make(2, **{option: 0})
    with pytest.raises(TypeError, match=r"a pure function, got the torch\.nn\.Module"):
        make(2, activation=torch.nn.ReLU())
    with pytest.raises(TypeError, match=rf"{name}: .* nn\.gelu for activation, got 'gelu'"):
        make(2, activation="gelu")
    with pytest.raises(ValueError, match="eps > 0, got -1"):
        make(2, layer_norm_eps=-1)
