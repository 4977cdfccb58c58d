"""A correction to what torch.compile puts in the place of optree's functions.

Dynamo evaluates optree's own `dict` functions where all items of a dict are constants, and their
result is of no use to its pytrees: an empty dict (the parameters of an activation) cannot be
flattened, and a dict of numbers (axes) comes back without its values. Dynamo's stand-ins for these
functions handle such dicts well; here it is told to trace them always.
"""

from torch._dynamo.polyfills import pytree as _stand_ins

for _name in ("dict_flatten", "dict_unflatten"):
    _stand_in = getattr(_stand_ins, _name, None)
    if _stand_in is not None:
        _stand_in.__torch_dynamo_can_constant_fold_through__ = False
