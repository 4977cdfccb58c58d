"""torch.nn's own lists: what stands there is in the registry, or named here with the reason."""

import inspect
import subprocess
import sys
from pathlib import Path

import torch
from registry import CASES

#: Why a class of torch.nn has no layer of its own.
NOT_LAYERS = {
    "AdaptiveLogSoftmaxWithLoss": "returns losses: purefn.functional.losses",
    "Container": "nn.serial, nn.parallel and dicts of parameters",
    "CosineSimilarity": "losses.cosine_similarity: a function of two inputs",
    # Its sum keeps channel 0 for ever: `c > pre_pad` should be `c >= pre_pad`.
    "CrossMapLRN2d": "nn.local_response_norm, of which it is an old and faulty copy",
    "DataParallel": "runs other modules",
    "Module": "nn.Layer",
    "ModuleDict": "nn.serial, nn.parallel and dicts of parameters",
    "ModuleList": "nn.serial, nn.parallel and dicts of parameters",
    "PairwiseDistance": "losses.pairwise_distance: a function of two inputs",
    "ParameterDict": "a dict",
    "ParameterList": "a dict",
    "RNNBase": "what torch's recurrent modules share",
    "RNNCellBase": "what torch's recurrent modules share",
    "SyncBatchNorm": "synchronises processes",
}

#: Every module that some case is compared with, or contains.
COMPARED = {
    kind.__name__
    for case in CASES
    if case.module is not None
    for module in case.module.modules()
    for kind in type(module).__mro__
    if kind.__module__.startswith("torch.nn")
}


def public_modules():
    classes = dict(inspect.getmembers(torch.nn, inspect.isclass))
    return {name for name, kind in classes.items() if issubclass(kind, torch.nn.Module)}


def test_every_module_of_torch_is_a_layer_or_has_a_reason_not_to_be():
    losses = {name for name in public_modules() if "Loss" in name}
    # All lengths are inferred here, by `init`.
    lazy = {name for name in public_modules() if name.startswith("Lazy")}
    missing = public_modules() - COMPARED - losses - lazy - NOT_LAYERS.keys()
    assert not missing
    assert NOT_LAYERS.keys() <= public_modules()
    assert not {name.removeprefix("Lazy") for name in lazy} - COMPARED


def test_torchs_own_test_inputs_give_torchs_outputs():
    """In a process of its own: torch's tests set flags for the whole of one when imported."""
    script = Path(__file__).parent / "torchs_module_inputs.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    compared = int(done.stdout.split()[0])
    assert compared > 800
