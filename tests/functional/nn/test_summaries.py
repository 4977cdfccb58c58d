"""Tables of models against torch's counter of operations and torchvision's published figures."""

import math
import re
from html.parser import HTMLParser

import pytest
import torch
from registry import CASES
from torch.utils.flop_counter import FlopCounterMode

import purefn.functional as pf
from purefn import data
from purefn.functional import ShapeDtype, models, nn, random, tree

KEY = random.key(0)


def network():
    return nn.serial(
        stem=nn.serial(nn.conv2d(4, 3, padding=1), nn.batch_norm(), nn.relu),
        block=nn.residual(nn.serial(nn.conv2d(4, 3, padding=1), nn.relu)),
        branches=nn.parallel(a=nn.global_avg_pool(), b=nn.global_max_pool()),
        join=lambda outputs: outputs[0] + outputs[1],
        head=nn.linear(3),
    )


def test_resnet50_is_as_published():
    """Of 4.09 billion multiplications and 25557032 parameters, as torchvision says."""
    weights = data.import_torchvision().models.ResNet50_Weights.IMAGENET1K_V2
    rows = nn.tabulate(models.resnet50(), ShapeDtype((1, 3, 224, 224)))
    whole, by_path = rows[0], {row.path: row for row in rows}
    assert whole.params == weights.meta["num_params"] == 25557032
    assert whole.flops / 2e9 == pytest.approx(weights.meta["_ops"], abs=5e-4)

    twin = data.import_torchvision().models.resnet50().eval().to("meta")
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in twin.buffers())
    assert whole.nbytes == 4 * whole.params + buffers
    with FlopCounterMode(display=False) as counter:
        twin(torch.empty(1, 3, 224, 224, device="meta"))
    assert whole.flops == counter.get_total_flops()
    for name, counts in counter.get_flop_counts().items():
        path = name.removeprefix("ResNet.")
        if path in by_path:  # of the module: its parts have rows of their own
            assert by_path[path].flops == sum(counts.values()), path
    for name, module in twin.named_modules():
        if name in by_path:
            expected = sum(parameter.numel() for parameter in module.parameters())
            assert by_path[name].params == expected, name
            statistics = sum(buffer.numel() for buffer in module.buffers())
            assert by_path[name].state == statistics, name


def test_rows_are_those_of_the_parts_run_one_by_one():
    model = network()
    x = torch.randn(2, 3, 8, 8)
    params, state = model.init(KEY, x)
    rows = {row.path: row for row in nn.tabulate(model, x)}
    assert list(rows) == [
        "", "stem", "stem.0", "stem.1", "stem.2", "block", "block.body", "block.body.0",
        "block.body.1", "block.shortcut", "branches", "branches.a", "branches.b", "join", "head",
    ]  # fmt: skip
    kinds = [rows[name].kind for name in ("", "stem.0", "stem.1", "stem.2", "block", "head")]
    assert kinds == ["serial", "conv2d", "batch_norm", "relu", "residual", "linear"]
    stem, stem_state = model.parts["stem"](params["stem"], state["stem"], x)
    assert rows["block"].input == rows["stem"].output == ShapeDtype(stem.shape)
    pair = model.parts["branches"]({}, stem)
    assert rows["join"].input == rows["branches"].output == tuple(ShapeDtype(y.shape) for y in pair)
    for name, row in rows.items():
        own = tree.at(params, name).get() if name in ("head", "stem", "block.body") else None
        if own is not None:
            assert row.params == tree.size(own)
    assert rows["stem.1"].state == tree.size(stem_state)
    assert rows["stem.1"].nbytes == tree.nbytes((params["stem"]["1"], state["stem"]["1"]))
    assert rows[""].flops == sum(
        row.flops for name, row in rows.items() if row.kind in ("conv2d", "linear")
    )


def test_layers_of_the_registry_have_a_row():
    kinds = set()
    for case in CASES:
        if case.variant or case.name in ("rnn", "lstm", "gru", "transformer"):
            continue  # to be quick
        x = case.example()
        (row, *_) = nn.tabulate(case.layer, ShapeDtype(x.shape, x.dtype))
        params, state = case.init(x)
        assert row.input == ShapeDtype(x.shape, x.dtype)
        assert (row.params, row.state) == (tree.size(params), tree.size(state)), case.name
        assert row.nbytes == tree.nbytes((params, state)), case.name
        kinds.add(row.kind)
    assert {"conv2d", "conv_transpose1d", "dropout", "batch_norm", "linear", "max_pool2d"} <= kinds


def test_a_name_that_begins_like_another_is_another():
    rows = nn.tabulate(nn.serial(*[nn.linear(2)] * 11), ShapeDtype((1, 2)))
    assert [row.params for row in rows] == [66] + 11 * [6]


def test_attention_is_counted_as_by_torch():
    x = ShapeDtype((2, 5, 8))
    ours = nn.tabulate(nn.transformer_encoder_layer(2, 16, causal=True), x)[0]
    module = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, device="meta")
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5, device="meta")
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(2, 5, 8, device="meta"), mask, is_causal=True)
    assert ours.flops == counter.get_total_flops()


def test_parts_of_a_transformer_cost_what_torchs_do():
    source, target = ShapeDtype((2, 5, 8)), ShapeDtype((2, 3, 8))
    rows = nn.tabulate(nn.transformer(2, 1, 2, 16), (source, target))
    by_path = {row.path: row for row in rows}
    twin = torch.nn.Transformer(8, 2, 1, 2, 16, batch_first=True, device="meta")
    with FlopCounterMode(display=False) as counter:
        twin(torch.empty(2, 5, 8, device="meta"), torch.empty(2, 3, 8, device="meta"))
    counted = {
        name.removeprefix("Transformer").lstrip("."): sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
        if name.startswith("Transformer")
    }
    assert by_path[""].flops == counter.get_total_flops()
    assert len(set(counted) & set(by_path)) > 10
    for name, row in by_path.items():
        if name in counted:
            assert row.flops == counted[name], name
    for name, module in twin.named_modules():
        if name in by_path:
            expected = sum(parameter.numel() for parameter in module.parameters())
            assert by_path[name].params == expected, name
    assert by_path["decoder.layers.1.multihead_attn"].kind == "multi_head_attention"
    assert by_path["decoder.layers.1.linear2"].output == target


@pytest.mark.parametrize(
    ("layer", "module"),
    [
        (nn.gru(3, num_layers=2), lambda: torch.nn.GRU(4, 3, 2, batch_first=True, device="meta")),
        (nn.lstm(3), lambda: torch.nn.LSTM(4, 3, batch_first=True, device="meta")),
    ],
    ids=["gru", "lstm"],
)
def test_every_step_of_a_recurrence_counts(layer, module):
    (row,) = nn.tabulate(layer, ShapeDtype((2, 7, 4)))
    with FlopCounterMode(display=False) as counter:
        module()(torch.empty(2, 7, 4, device="meta"))
    assert row.flops == counter.get_total_flops()


def looped(part, *lengths):
    """Return the layer that applies a part in loops within loops."""

    def apply(params, x, *, key=None, train=False):
        def run(x, *lengths):
            if not lengths:
                return part(params["step"], x)
            return pf.scan(lambda x, i: (run(x, *lengths[1:]), i), x, torch.arange(lengths[0]))[0]

        return run(x, *lengths)

    return nn.Layer(
        lambda key, x: {"step": part.init(key, x)},
        apply,
        parts={"step": part},
        rebuild=lambda parts: looped(parts["step"], *lengths),
    )


@pytest.mark.parametrize("lengths", [(3,), (4, 5), (10**6,), (0,)])
def test_parts_inside_a_loop_cost_as_often_as_they_run(lengths):
    inner = looped(nn.linear(4), 2)
    rows = nn.tabulate(nn.serial(looped(inner, *lengths), nn.linear(4)), ShapeDtype((2, 4)))
    (one,) = {row.flops for row in rows if row.path == "1"}
    assert one == 2 * 2 * 4 * 4
    inside = [row.flops for row in rows if row.path.startswith("0")]
    assert inside == 3 * [2 * math.prod(lengths) * one]
    assert rows[0].flops == inside[0] + one
    assert [row.params for row in rows] == [40, 20, 20, 20, 20]
    assert {row.output for row in rows} == {ShapeDtype((2, 4))}


def test_what_loops_return_has_its_shape():
    doubled = nn.serial(lambda x: pf.scan(lambda c, i: (c, (c @ c, i)), x, x)[1], lambda y: y[0])
    assert nn.tabulate(doubled, ShapeDtype((4, 4)))[0].output == ShapeDtype((4, 4, 4))
    mapped = nn.serial(lambda x: pf.map(lambda row: row @ row, x))
    assert nn.tabulate(mapped, ShapeDtype((6, 4, 4)))[0].flops == 6 * 2 * 4**3


def test_wrappers_show_what_they_wrap():
    model, x = nn.serial(nn.linear(4), nn.relu, nn.linear(2)), ShapeDtype((3, 6))
    paths = {
        "lora": ["", "base", "base.0", "base.1", "base.2"],
        "precision": ["", "0", "1", "2"],
        "mixture_of_experts": ["", "router", "experts", "experts.0", "experts.1", "experts.2"],
    }
    layers = (
        nn.lora(model, 2, alpha=1.0),
        nn.precision(model),
        nn.mixture_of_experts(model, 4, capacity_factor=1.5),
    )
    for (kind, expected), layer in zip(paths.items(), layers, strict=True):
        rows = nn.tabulate(layer, x)
        assert rows[0].kind == kind
        assert [row.path for row in rows] == expected
        assert rows[0].params == tree.size(layer.init(KEY, torch.ones(3, 6)))
        assert rows[-1].flops > 0


def test_an_ensemble_costs_its_members_and_tied_weights_nothing():
    member, x = nn.serial(nn.linear(16), nn.relu, nn.linear(3)), ShapeDtype((8, 5))
    one, many = (nn.tabulate(layer, x) for layer in (member, nn.ensemble(member, 4)))
    assert [row.path for row in many] == [row.path for row in one]
    assert [row.params for row in many] == [4 * row.params for row in one]
    assert [row.flops for row in many] == [4 * row.flops for row in one]
    assert many[0].output == ShapeDtype((4, 8, 3))

    model = nn.serial(encoder=nn.embedding(7, 4), decoder=nn.linear(7, bias=False))
    tied = nn.tie(model, {"decoder.weight": "encoder.weight"})
    words = ShapeDtype((2, 3), torch.int64)
    rows = {row.path: row for row in nn.tabulate(tied, words)}
    assert [rows[path].params for path in ("encoder", "decoder", "")] == [28, 0, 28]
    assert rows["decoder"].flops == 2 * 6 * 4 * 7


def test_nothing_is_computed():
    """Of a size that no machine here could hold."""
    (row,) = nn.tabulate(nn.linear(1 << 20), ShapeDtype((1 << 30, 1 << 14)))
    assert row.params == (1 << 34) + (1 << 20)
    assert row.flops == 1 << 65


def test_the_text_says_what_the_rows_say():
    table = nn.summary(network(), torch.randn(2, 3, 8, 8))
    lines = str(table).splitlines()
    assert repr(table) == str(table)
    assert len(lines) == 2 + len(table.rows)
    assert max(map(len, lines)) <= 100
    cells = [re.split("  +", line) for line in lines]
    assert cells[0] == ["name", "kind", "input", "output", "params", "state", "bytes", "flops"]
    assert cells[2][0] == "stem"
    assert cells[-1][0] == "total"
    assert cells[-1][4] == str(table.rows[0].params)
    conv = next(row for row in cells if row[0] == "stem.0")
    assert conv[1:] == ["conv2d", "(2, 3, 8, 8)", "(2, 4, 8, 8)", "112", "0", "448 B", "27.6 k"]
    join = next(row for row in cells if row[0] == "join")
    assert join[2:4] == ["(2, 4), (2, 4)", "(2, 4)"]


def test_depth_hides_what_lies_deeper():
    table = nn.summary(network(), torch.randn(2, 3, 8, 8), depth=1)
    assert [row.path for row in table.rows] == ["", "stem", "block", "branches", "join", "head"]
    assert table.rows[0] == nn.tabulate(network(), torch.randn(2, 3, 8, 8))[0]


class Table(HTMLParser):
    """Collects the cells of each row."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.rows[-1].append(data)


def test_a_notebook_shows_the_same_as_a_terminal():
    table = nn.summary(network(), torch.randn(2, 3, 8, 8))
    text = [re.split("  +", line) for line in str(table).splitlines()]
    assert Table(table._repr_html_()).rows == [text[0], *text[2:]]
    odd = nn.serial(**{"<b>": nn.relu})
    assert "<b>" not in nn.summary(odd, torch.ones(1))._repr_html_()


def test_what_is_refused():
    with pytest.raises(TypeError, match="expected a Layer"):
        nn.tabulate(torch.relu, torch.ones(1))
    with pytest.raises(ValueError, match="depth >= 1"):
        nn.summary(nn.linear(3), torch.ones(1), depth=0)
    with pytest.raises(nn.LayerError, match=r"model\['head'\]: linear expected"):
        nn.tabulate(nn.serial(head=nn.linear(3)), torch.ones(1, dtype=torch.int64))
