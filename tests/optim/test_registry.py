"""Every public transformation, one after the other, however it is run and at the edges of numbers.

A public function that returns a transformation and is missing from the registry fails a test.
"""

import inspect

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import random, tree

STEPS = 4
KEY = random.key(0)


def is_matrix(path):
    return path.endswith("['w']")


def quadratic(params):
    return 0.5 * tree.dot(params, params)


REGISTRY = {
    "adabelief": lambda lr: optim.adabelief(lr),
    "adadelta": lambda lr: optim.adadelta(lr),
    "adafactor": lambda lr: optim.adafactor(lr),
    "adagrad": lambda lr: optim.adagrad(lr),
    "adam": lambda lr: optim.adam(lr, amsgrad=True),
    "adamax": lambda lr: optim.adamax(lr),
    "adamw": lambda lr: optim.adamw(lr),
    "adan": lambda lr: optim.adan(lr, weight_decay=0.1),
    "adaptive_grad_clip": lambda lr: optim.adaptive_grad_clip(0.1),
    "add_decayed_weights": lambda lr: optim.add_decayed_weights(0.1),
    "add_noise": lambda lr: optim.add_noise(0.1, 0.5, KEY),
    "ademamix": lambda lr: optim.ademamix(lr),
    "adopt": lambda lr: optim.adopt(lr),
    "apply_if_finite": lambda lr: optim.apply_if_finite(optim.adam(lr), 3),
    "asgd": lambda lr: optim.asgd(lr, t0=2),
    "average_params": lambda lr: optim.average_params(),
    "centralize": lambda lr: optim.centralize(),
    "chain": lambda lr: optim.chain(optim.clip_by_global_norm(1.0), optim.adam(lr)),
    "clip": lambda lr: optim.clip(0.5),
    "clip_by_block_rms": lambda lr: optim.clip_by_block_rms(0.5),
    "clip_by_global_norm": lambda lr: optim.clip_by_global_norm(0.5),
    "conditionally_mask": lambda lr: optim.conditionally_mask(optim.adam(lr), lambda t: t % 2 == 0),
    "conditionally_transform": lambda lr: optim.conditionally_transform(
        optim.adam(lr), lambda t: t % 2 == 0
    ),
    "dadapt_adamw": lambda lr: optim.dadapt_adamw(lr),
    "debiased_ema_params": lambda lr: optim.debiased_ema_params(0.9),
    "dog": lambda lr: optim.dog(lr),
    "dowg": lambda lr: optim.dowg(lr),
    "dynamic_loss_scale": lambda lr: optim.dynamic_loss_scale(optim.adam(lr), 4.0),
    "ema": lambda lr: optim.ema(0.9),
    "ema_params": lambda lr: optim.ema_params(0.9),
    "flatten": lambda lr: optim.flatten(optim.adam(lr)),
    "freeze": lambda lr: optim.freeze(is_matrix),
    "fromage": lambda lr: optim.fromage(lr),
    "identity": lambda lr: optim.identity(),
    "in_dtype": lambda lr: optim.in_dtype(optim.adam(lr), torch.float32),
    "keep_params_nonnegative": lambda lr: optim.keep_params_nonnegative(),
    "lamb": lambda lr: optim.lamb(lr, weight_decay=0.1),
    "lars": lambda lr: optim.lars(lr, weight_decay=0.1),
    "lbfgs": lambda lr: optim.lbfgs(lr, max_iter=2, history_size=3),
    "ldog": lambda lr: optim.ldog(lr),
    "lion": lambda lr: optim.lion(lr, weight_decay=0.1),
    "lookahead": lambda lr: optim.lookahead(optim.adam(lr), sync_period=2),
    "masked": lambda lr: optim.masked(optim.adam(lr), is_matrix),
    "multi_steps": lambda lr: optim.multi_steps(optim.adam(lr), 2),
    "muon": lambda lr: optim.partition({True: optim.muon(lr), False: optim.adamw(lr)}, is_matrix),
    "nadam": lambda lr: optim.nadam(lr),
    "named_chain": lambda lr: optim.named_chain(("clip", optim.clip(1.0)), ("sgd", optim.sgd(lr))),
    "noisy_sgd": lambda lr: optim.noisy_sgd(lr, key=KEY),
    "normalize": lambda lr: optim.normalize(),
    "normalize_by_update_norm": lambda lr: optim.normalize_by_update_norm(),
    "novograd": lambda lr: optim.novograd(lr, weight_decay=0.1),
    "optimistic_adam": lambda lr: optim.optimistic_adam(lr),
    "optimistic_gradient_descent": lambda lr: optim.optimistic_gradient_descent(lr),
    "partition": lambda lr: optim.partition(
        {"a": optim.adam(lr), "b": optim.sgd(lr)}, lambda path: "a" if is_matrix(path) else "b"
    ),
    "polyak_sgd": lambda lr: optim.polyak_sgd(lr),
    "polynomial_average_params": lambda lr: optim.polynomial_average_params(),
    "prodigy": lambda lr: optim.prodigy(lr),
    "radam": lambda lr: optim.radam(lr),
    "reduce_on_plateau": lambda lr: optim.reduce_on_plateau(patience=1),
    "rmsprop": lambda lr: optim.rmsprop(lr, centered=True, momentum=0.9),
    "rprop": lambda lr: optim.rprop(0.1),
    "sam": lambda lr: optim.sam(optim.adam(lr)),
    "scale": lambda lr: optim.scale(0.5),
    "scale_by_adadelta": lambda lr: optim.scale_by_adadelta(),
    "scale_by_adam": lambda lr: optim.scale_by_adam(mu_dtype=torch.bfloat16),
    "scale_by_adamax": lambda lr: optim.scale_by_adamax(),
    "scale_by_adan": lambda lr: optim.scale_by_adan(),
    "scale_by_ademamix": lambda lr: optim.scale_by_ademamix(),
    "scale_by_adopt": lambda lr: optim.scale_by_adopt(),
    "scale_by_amsgrad": lambda lr: optim.scale_by_amsgrad(),
    "scale_by_asgd": lambda lr: optim.scale_by_asgd(lr),
    "scale_by_belief": lambda lr: optim.scale_by_belief(),
    "scale_by_cover": lambda lr: optim.scale_by_cover(),
    "scale_by_dog": lambda lr: optim.scale_by_dog(),
    "scale_by_dowg": lambda lr: optim.scale_by_dowg(),
    "scale_by_factored_rms": lambda lr: optim.scale_by_factored_rms(),
    "scale_by_layer_moment": lambda lr: optim.scale_by_layer_moment(),
    "scale_by_learning_rate": lambda lr: optim.scale_by_learning_rate(lr),
    "scale_by_lion": lambda lr: optim.scale_by_lion(),
    "scale_by_local_rate": lambda lr: optim.scale_by_local_rate(weight_decay=0.1),
    "scale_by_muon": lambda lr: optim.masked(optim.scale_by_muon(), is_matrix),
    "scale_by_nadam": lambda lr: optim.scale_by_nadam(),
    "scale_by_novograd": lambda lr: optim.scale_by_novograd(),
    "scale_by_optimistic_gradient": lambda lr: optim.scale_by_optimistic_gradient(),
    "scale_by_param_block_norm": lambda lr: optim.scale_by_param_block_norm(),
    "scale_by_param_block_rms": lambda lr: optim.scale_by_param_block_rms(),
    "scale_by_polyak": lambda lr: optim.scale_by_polyak(),
    "scale_by_radam": lambda lr: optim.scale_by_radam(),
    "scale_by_relative_step": lambda lr: optim.scale_by_relative_step(lr),
    "scale_by_rms": lambda lr: optim.scale_by_rms(),
    "scale_by_rprop": lambda lr: optim.scale_by_rprop(),
    "scale_by_rss": lambda lr: optim.scale_by_rss(),
    "scale_by_running_product": lambda lr: optim.scale_by_running_product(lambda t: 0.5),
    "scale_by_schedule": lambda lr: optim.scale_by_schedule(optim.schedules.constant(lr)),
    "scale_by_shampoo": lambda lr: optim.scale_by_shampoo(),
    "scale_by_sign": lambda lr: optim.scale_by_sign(),
    "scale_by_sm3": lambda lr: optim.scale_by_sm3(),
    "scale_by_soap": lambda lr: optim.scale_by_soap(precondition_frequency=2),
    "scale_by_sophia": lambda lr: optim.scale_by_sophia(key=KEY, update_interval=2),
    "scale_by_sparse_adam": lambda lr: optim.scale_by_sparse_adam(),
    "scale_by_stddev": lambda lr: optim.scale_by_stddev(),
    "scale_by_trust_ratio": lambda lr: optim.scale_by_trust_ratio(),
    "scale_by_yogi": lambda lr: optim.scale_by_yogi(),
    "schedule_free": lambda lr: optim.schedule_free(optim.adam(lr), lr),
    "schedule_free_adamw": lambda lr: optim.schedule_free_adamw(lr),
    "schedule_free_sgd": lambda lr: optim.schedule_free_sgd(lr),
    "selective_transform": lambda lr: optim.selective_transform(
        optim.adam(lr), freeze_mask=is_matrix
    ),
    "set_to_zero": lambda lr: optim.set_to_zero(),
    "sgd": lambda lr: optim.sgd(lr, momentum=0.9, nesterov=True),
    "shampoo": lambda lr: optim.shampoo(lr),
    "sign_sgd": lambda lr: optim.sign_sgd(lr),
    "signum": lambda lr: optim.signum(lr),
    "skip_large_updates": lambda lr: optim.skip_large_updates(optim.adam(lr), 1e6),
    "sm3": lambda lr: optim.sm3(lr),
    "soap": lambda lr: optim.soap(lr, precondition_frequency=2),
    "sophia": lambda lr: optim.sophia(lr, key=KEY, update_interval=2),
    "sparse_adam": lambda lr: optim.sparse_adam(lr or 1e-30),  # torch refuses 0
    "swa_params": lambda lr: optim.swa_params(2, 2),
    "trace": lambda lr: optim.trace(0.9, dampening=0.5),
    "warmup_ema_params": lambda lr: optim.warmup_ema_params(0.9),
    "with_extra_args": lambda lr: optim.with_extra_args(optim.adam(lr)),
    "yogi": lambda lr: optim.yogi(lr),
    "zero_nans": lambda lr: optim.zero_nans(),
}
every_transformation = pytest.mark.parametrize("make", REGISTRY.values(), ids=REGISTRY)


def test_nothing_is_missing():
    public = {
        name
        for name, function in vars(optim).items()
        if inspect.isfunction(function)
        and not name.startswith("_")
        and inspect.signature(function).return_annotation == "GradientTransformation"
    }
    assert public == set(REGISTRY)


def make_params(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = {"w": (4, 3), "b": (3,), "s": ()}
    return {
        name: torch.randn(shape, dtype=torch.float64, generator=generator).abs().to(dtype)
        for name, shape in shapes.items()
    }


def gradients(params, steps=STEPS):
    generator = torch.Generator().manual_seed(1)
    return [
        tree.map(lambda leaf: torch.randn(leaf.shape, generator=generator).to(leaf.dtype), params)
        for _ in range(steps)
    ]


def step_of(optimizer):
    def step(params, state, grads):
        extra = {
            "value": quadratic(params),
            "value_fn": quadratic,
            "grad_fn": lambda params: params,
        }
        updates, state = optimizer.update(grads, state, params, **extra)
        return optim.apply_updates(params, updates), state

    return step


def run(step, params, state, grads_of_steps):
    for grads in grads_of_steps:
        params, state = step(params, state, grads)
    return params, state


def assert_close(left, right, rtol):
    assert tree.structure(left) == tree.structure(right)
    for a, b in zip(tree.leaves(left), tree.leaves(right), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        scale = b.double().abs().nan_to_num(posinf=0).max().item() if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * scale, equal_nan=True)


@every_transformation
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_state_and_parameters_keep_their_form_and_nothing_is_written(make, dtype):
    params = make_params(dtype)
    optimizer = make(0.1)
    step, state = step_of(optimizer), optimizer.init(params)
    for grads in gradients(params):
        given = (params, state, grads)
        before = tree.map(torch.clone, given)
        after = step(*given)
        assert_close(given, before, 0)
        assert tree.structure(after) == tree.structure((params, state))
        for new, old in zip(tree.leaves(after), tree.leaves((params, state)), strict=True):
            assert (new.dtype, new.shape, new.device) == (old.dtype, old.shape, old.device)
            assert bool(torch.isfinite(new).all()) or new.isinf().equal(old.isinf())
        params, state = after


@every_transformation
def test_jit_and_vmap_compute_the_same(make):
    params = make_params()
    optimizer = make(0.1)
    step, grads = step_of(optimizer), gradients(params)
    expected = run(step, params, optimizer.init(params), grads)
    compiled = pf.jit(step, backend="eager")
    assert_close(run(compiled, params, optimizer.init(params), grads), expected, 1e-10)
    assert compiled.trace_count == 1
    several = [params, tree.map(lambda leaf: leaf + 1, params)]
    batched = run(
        pf.vmap(step),
        tree.stack(several),
        pf.vmap(optimizer.init)(tree.stack(several)),
        [tree.stack([g, g]) for g in grads],
    )
    for place, one in enumerate(several):
        alone = run(step, one, optimizer.init(one), grads)
        assert_close(tree.map(lambda leaf, at=place: leaf[at], batched), alone, 1e-10)


@every_transformation
@pytest.mark.parametrize("scale", [0.0, 1e-310, 1e-30])
def test_small_gradients_make_no_nan(make, scale):
    params = make_params()
    optimizer = make(0.0)
    grads = tree.map(lambda leaf: leaf * scale, gradients(params))
    params, state = run(step_of(optimizer), params, optimizer.init(params), grads)
    assert not any(bool(leaf.isnan().any()) for leaf in tree.leaves((params, state)))
