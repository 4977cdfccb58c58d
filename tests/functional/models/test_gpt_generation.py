"""Decoding with a cache gives the logits of the whole, and text is a function of its key."""

import functools

import pytest
import torch

import purefn.functional as pf
from purefn.functional import models, nn, random, tree

VOCABULARY, CONTEXT = 11, 12
SIZES = {"num_layers": 2, "num_heads": 2, "embedding_dim": 8}
MODEL = models.gpt(VOCABULARY, CONTEXT, **SIZES)
DECODER = models.gpt_decoder(VOCABULARY, CONTEXT, **SIZES)


@pytest.fixture(scope="module")
def params():
    """Return parameters large enough that the next token depends on those before."""
    tokens = torch.zeros(1, 1, dtype=torch.int64)
    return tree.map(lambda leaf: 20 * leaf, MODEL.init(random.key(0), tokens))


def prompt_of(seed, *shape):
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rotary": nn.rotary},
        {"bias": False, "tied": False, "mlp_dim": 5, "activation": torch.relu},
    ],
)
def test_cached_logits_are_those_of_the_whole(dtype, atol, options):
    model = models.gpt(VOCABULARY, CONTEXT, **SIZES, **options)
    decoder = models.gpt_decoder(VOCABULARY, CONTEXT, **SIZES, **options)
    tokens = prompt_of(1, 3, CONTEXT)
    params, cache = decoder.init(random.key(0), tokens)
    assert tree.structure(params) == tree.structure(model.init(random.key(0), tokens))
    params, cache = (tree.cast(values, dtype) for values in (params, cache))
    begun = decoder(params, {}, tokens[:, :4]), decoder(params, cache, tokens[:, :4])
    assert tree.all(tree.map(torch.equal, *begun))
    params = tree.map(lambda leaf: 5 * leaf, params)
    step = (
        pf.jit(decoder.apply, backend="aot_eager")
        if options == {} and dtype == torch.float64
        else decoder.apply
    )
    pieces, start = [], 0
    for length in (4, 1, 1, 1, 1, 4):  # one program serves all steps of one token
        piece, cache = step(params, cache, tokens[:, start : start + length])
        pieces.append(piece)
        start += length
    whole = model(params, tokens)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=atol * whole.abs().max())
    assert cache["transformer"]["h"]["1"]["attn"]["position"] == CONTEXT


def test_a_full_cache_refuses_more(params):
    tokens = prompt_of(1, 1, CONTEXT)
    _, cache = DECODER.init(random.key(0), tokens)
    _, cache = DECODER(params, cache, tokens)
    with pytest.raises(nn.LayerError, match=r"\['h'\]\['0'\]\['attn'\].*at most max_length=12"):
        DECODER(params, cache, tokens[:, :1])
    logits, _ = pf.jit(DECODER.apply, backend="aot_eager")(params, cache, tokens[:, :1])
    assert logits.isnan().all()


def greedy(params, prompt, length):
    """Return the most probable text without any cache, each token from a pass over all before."""
    for _ in range(length):
        token = MODEL(params, prompt)[:, -1].argmax(-1)
        prompt = torch.cat([prompt, token[:, None]], 1)
    return prompt


def test_greedy_text_is_that_without_a_cache(params):
    prompt = prompt_of(2, 3, 4)
    text = models.generate(DECODER, params, prompt, 8, key=random.key(0), temperature=0)
    assert torch.equal(text, greedy(params, prompt, 8))
    assert len({tuple(row) for row in text[:, 4:].tolist()}) > 1  # the prompt matters


def test_sampled_text_is_that_without_a_cache(params):
    options = {"temperature": 10.0, "top_k": 7, "top_p": 0.9}
    prompt, key = prompt_of(2, 3, 4), random.key(5)
    text, keys = prompt, random.split(key, 12)
    for position in range(4, 12):
        logits = MODEL(params, text)[:, -1]
        token = models.sample_token(keys[position], logits, **options)
        text = torch.cat([text, token[:, None]], 1)
    assert torch.equal(models.generate(DECODER, params, prompt, 8, key=key, **options), text)


def test_text_is_a_function_of_its_key(params):
    write = functools.partial(
        models.generate, DECODER, params, prompt_of(2, 3, 4), temperature=10.0
    )
    text = write(8, key=random.key(1))
    assert torch.equal(text, write(8, key=random.key(1)))
    assert not torch.equal(text, write(8, key=random.key(2)))
    assert torch.equal(text[:, :7], write(3, key=random.key(1)))  # more changes none before
    assert text.min() >= 0
    assert text.max() < VOCABULARY


def test_one_program_and_many_keys():
    sizes = {**SIZES, "num_layers": 1}
    decoder, model = (make(VOCABULARY, 8, **sizes) for make in (models.gpt_decoder, models.gpt))
    prompt, keys = prompt_of(2, 2, 3), random.split(random.key(3), 3)
    params = tree.map(lambda leaf: 20 * leaf, model.init(random.key(0), prompt))

    def write(params, prompt, key):
        return models.generate(decoder, params, prompt, 4, key=key, temperature=10.0, top_p=0.9)

    expected = torch.stack([write(params, prompt, key) for key in keys])
    assert torch.equal(pf.vmap(lambda key: write(params, prompt, key))(keys), expected)
    compiled = pf.jit(write, backend="eager")
    assert torch.equal(torch.stack([compiled(params, prompt, key) for key in keys]), expected)
    assert compiled.trace_count == 1


def test_prompts_of_different_lengths(params):
    """A short row writes what it writes alone, with the same keys at the same positions."""
    prompt, lengths = prompt_of(2, 3, 4), torch.tensor([2, 4, 1])
    write = functools.partial(models.generate, DECODER, params, key=random.key(0), temperature=0)
    text = write(prompt, 5, prompt_lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = write(prompt[row : row + 1, :length], 9 - length)
        assert torch.equal(text[row], alone[0])
    # Where they cannot be seen, lengths out of range are the nearest ones within.
    hidden = pf.vmap(lambda lengths: write(prompt, 2, prompt_lengths=lengths))
    expected = write(prompt, 2, prompt_lengths=torch.tensor([1, 4, 2]))
    assert torch.equal(hidden(torch.tensor([[-1, 9, 2]]))[0], expected)
    keyed = functools.partial(write, prompt, 5, key=random.key(4), temperature=10.0)
    assert torch.equal(keyed(), keyed(prompt_lengths=torch.full((3,), 4)))


def test_logits_that_are_nan_write_nothing(params):
    prompt, key = prompt_of(2, 2, 3), random.key(0)
    broken = tree.map(lambda leaf: leaf * torch.nan, params)

    def write(params, key):
        return models.generate(DECODER, params, prompt, 3, key=key)

    with pytest.raises(ValueError, match=r"finite greatest logit in every row, got \[nan, nan\]"):
        write(broken, key)
    expected = torch.cat([prompt, torch.full((2, 3), -1)], 1)
    many = tree.map(lambda *leaves: torch.stack(leaves), broken, params)
    texts = pf.vmap(lambda params: write(params, key))(many)
    assert torch.equal(texts, torch.stack([expected, write(params, key)]))
    assert torch.equal(pf.jit(write, backend="aot_eager")(broken, key), expected)


def test_a_row_stops_at_the_stop_token(params):
    prompt = prompt_of(2, 6, 3)
    write = functools.partial(models.generate, DECODER, params, prompt, 9, key=random.key(1))
    text = write()
    stop = int(text[0, 5])
    stopped = write(stop_token=stop)
    for before, after in zip(text[:, 3:].tolist(), stopped[:, 3:].tolist(), strict=True):
        end = before.index(stop) if stop in before else len(before)
        assert after == before[:end] + [stop] * (9 - end)
    assert (stopped == stop).any()
    # One in the prompt stops nothing, also where the prompt is fed token by token.
    prompt[:, 1] = stop
    again = models.generate(
        DECODER,
        params,
        prompt,
        9,
        key=random.key(1),
        stop_token=stop,
        prompt_lengths=torch.full((6,), 3),
    )
    assert torch.equal(again[:, :3], prompt)
    assert (again[:, 3:6] != stop).any()


def test_a_recurrent_decoder_writes_too(params):
    """Anything from tokens to logits with a state that goes on: here one that counts."""

    def apply(params, state, x, *, key=None, train=False):
        seen = state.get("seen", torch.zeros(x.shape[0], dtype=torch.int64))
        after = seen[:, None] + torch.arange(1, x.shape[1] + 1)
        logits = torch.nn.functional.one_hot(after % 5, 5).to(params["scale"].dtype)
        return params["scale"] * logits, {"seen": seen + x.shape[1]}

    def init(key, x):
        return {"scale": torch.tensor(9.0)}, {}

    counter = nn.StatefulLayer(init, apply)
    prompt = torch.zeros(2, 3, dtype=torch.int64)
    text = models.generate(
        counter, {"scale": torch.tensor(9.0)}, prompt, 4, key=random.key(0), temperature=0
    )
    assert text[:, 3:].tolist() == [[3, 4, 0, 1]] * 2


def test_nothing_is_written(params):
    prompt = prompt_of(2, 2, 3)
    before = tree.map(torch.clone, (params, prompt))
    models.generate(DECODER, params, prompt, 3, key=random.key(0))
    assert tree.all(tree.map(torch.equal, before, (params, prompt)))


def test_what_does_not_fit_is_refused(params):
    prompt = prompt_of(2, 2, 4)

    def write(prompt=prompt, length=2, decoder=DECODER, **options):
        options = {"key": random.key(0), **options}
        return models.generate(decoder, params, prompt, length, **options)

    assert write(length=CONTEXT - 3).shape == (2, CONTEXT + 1)
    full = prompt_of(3, 2, CONTEXT)
    one = write(full, 1, temperature=0)
    assert torch.equal(one[:, -1], MODEL(params, full)[:, -1].argmax(-1))
    assert torch.equal(write(full, 1, temperature=0, prompt_lengths=torch.tensor([12, 12])), one)
    with pytest.raises(
        ValueError, match=r"4 tokens and length=10.*context_length=12 tokens, got 13"
    ):
        write(length=CONTEXT - 2)
    with pytest.raises(nn.LayerError, match="at most context_length=12 tokens, got 13"):
        write(prompt_of(2, 1, 13))
    with pytest.raises(TypeError, match="layer with a state"):
        write(decoder=MODEL)
    for wrong in (prompt[0], prompt.int(), prompt[:, :0], prompt.float(), [[1]]):
        with pytest.raises(ValueError, match="int64 prompt"):
            write(wrong)
    with pytest.raises(ValueError, match="length >= 1"):
        write(length=0)
    with pytest.raises(TypeError, match="integer for length"):
        write(length=2.0)
    with pytest.raises(TypeError, match=r"integer for length, got .*; under jit mark it static"):
        pf.jit(lambda length: write(length=length), backend="eager")(3)
    with pytest.raises((TypeError, ValueError), match="key"):
        write(key=3)
    with pytest.raises(ValueError, match="at most the 11 tokens"):
        write(top_k=12)
    with pytest.raises(ValueError, match="top_p within"):
        write(top_p=0.0)
    with pytest.raises(ValueError, match="temperature >= 0"):
        write(temperature=-1.0)
    for lengths in (torch.tensor([0, 1]), torch.tensor([1, 5])):
        with pytest.raises(ValueError, match="prompt_lengths from 1 to 4"):
            write(prompt_lengths=lengths)
    for wrong in (torch.tensor([1.0, 2.0]), torch.tensor([1]), [1, 2]):
        with pytest.raises(ValueError, match=r"prompt_lengths of shape \(2,\)"):
            write(prompt_lengths=wrong)
    for wrong in (-1, 11):
        with pytest.raises(ValueError, match="stop_token from 0 to 10"):
            write(stop_token=wrong)
    with pytest.raises(TypeError, match="integer for stop_token"):
        write(stop_token=1.0)
    with pytest.raises(nn.LayerError, match="wte"):
        write(torch.full((1, 2), 11))
