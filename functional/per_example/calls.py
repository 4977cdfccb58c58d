"""What every per-example transform is given: a function of losses, parameters and a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .. import tree
from ..autodiff.inputs import Argnums, Inputs
from ..border import argument_name, check_callable, describe, function_name, tensor_leaves
from ..one_hot import ComparedOneHot
from ..staging.errors import explaining

#: `losses_fn(params, *batch)` returns one loss for each example.
LossesFunction = Callable[..., Any]


class Call:
    """A call `losses_fn(params, *batch)`, read and checked.

    `params` are the leaves to differentiate with respect to, `batch` those of the other arguments,
    which have the examples along their first axis, `size` is how many there are.

    Raises
    ------
    TypeError
        A parameter has no derivative (an integer, for example), or a leaf of the batch is no
        tensor.
    ValueError
        Leaves of the batch have no first axis, or differ in its length, or there is no batch.
    """

    def __init__(
        self,
        transform: str,
        losses_fn: LossesFunction,
        args: Sequence[Any],
        *,
        argnums: Argnums = 0,
        has_aux: bool = False,
    ) -> None:
        check_callable(transform, losses_fn)
        self.transform, self.losses_fn, self.has_aux = transform, losses_fn, has_aux
        self.args, self.argnums = args, argnums
        self.inputs = Inputs(transform, losses_fn, argnums, args)
        self.params: list[Tensor] = list(self.inputs.leaves)
        wanted = [argnums] if isinstance(argnums, int) else argnums
        differentiated = {number % len(args) for number in wanted}
        self._places = [place for place in range(len(args)) if place not in differentiated]
        batch = [args[place] for place in self._places]
        self.batch, self._batch_structure = tree.flatten(batch)
        self.size = self._batch_size()

    @property
    def name(self) -> str:
        """What errors call the function of losses."""
        return function_name(self.losses_fn)

    def losses(self, params: Sequence[Tensor], batch: Sequence[Tensor]) -> tuple[Any, Any]:
        """Return the losses and the auxiliary output for other leaves."""
        args = self.inputs.arguments(params)
        parts = tree.unflatten(self._batch_structure, batch)
        for place, part in zip(self._places, parts, strict=True):
            args[place] = part
        with explaining(f"{self.transform}({self.name})"), ComparedOneHot():
            output = self.losses_fn(*args)
        if not self.has_aux:
            return output, None
        if not isinstance(output, tuple | list) or len(output) != 2:
            raise TypeError(
                f"{self.transform}: with has_aux=True, {self.name} has to return a pair "
                f"(losses, aux), got {describe(output)}."
            )
        return output[0], tensor_leaves(self.transform, "aux", output[1])

    def loss(self, params: Sequence[Tensor], example: Sequence[Tensor]) -> tuple[Tensor, Any]:
        """Return the loss and the auxiliary output of one example, as a batch of one."""
        losses, aux = self.losses(params, [leaf.unsqueeze(0) for leaf in example])
        self.check_losses(losses, 1)
        return losses.reshape(()), tree.map(self._only_row, aux)

    def check_losses(self, losses: Any, size: int) -> None:
        """Refuse what is not one floating-point loss for each of `size` examples."""
        # What squeezes its batch of one away is right for every other batch.
        shapes = [(size,), ()] if size == 1 else [(size,)]
        if not isinstance(losses, Tensor) or not losses.is_floating_point():
            advice = "Return a floating tensor of shape (batch,); with (losses, aux), has_aux=True."
        elif tuple(losses.shape) in shapes:
            return
        elif losses.ndim == 0:
            advice = "Return one loss for each example: drop the .mean() or .sum() over the batch."
        else:
            advice = (
                "Return one loss for each example, reduced over every other axis; a tensor that "
                "belongs to the batch is an argument, not closed over."
            )
        raise (ValueError if isinstance(losses, Tensor) else TypeError)(
            f"{self.transform}: {self.name} returned {describe(losses)} for a batch of {size}, "
            f"expected shape ({size},). {advice}"
        )

    def examples(self) -> list[Tensor]:
        """Return a tensor like each leaf of one example."""
        return [leaf[0] if self.size else leaf.new_empty(leaf.shape[1:]) for leaf in self.batch]

    def with_batch(self, batch: Sequence[Tensor]) -> Call:
        """Return the call on other examples."""
        args = list(self.args)
        parts = tree.unflatten(self._batch_structure, batch)
        for place, part in zip(self._places, parts, strict=True):
            args[place] = part
        return Call(
            self.transform, self.losses_fn, args, argnums=self.argnums, has_aux=self.has_aux
        )

    def like_params(self, leaves: Sequence[Any]) -> tree.PyTree:
        """Return a tree like what is differentiated with respect to."""
        return self.inputs.like(leaves)

    def paths(self) -> list[str]:
        """Return the path of each parameter."""
        if not tree.leaves(self.like_params(self.params)):
            return ["params"] * len(self.params)
        numbers = [self.argnums] if isinstance(self.argnums, int) else self.argnums
        return [
            path
            for number in numbers
            for path in tree.path_strings(
                self.args[number], argument_name(self.losses_fn, number % len(self.args))
            )
        ]

    def _only_row(self, leaf: Tensor) -> Tensor:
        if leaf.ndim == 0 or leaf.shape[0] != 1:
            raise ValueError(
                f"{self.transform}: {self.name} returned an auxiliary leaf of shape "
                f"{tuple(leaf.shape)} for a batch of one, expected the examples along its first "
                "axis. Return what belongs to each example."
            )
        return leaf[0]

    def _batch_size(self) -> int:
        names = [
            name
            for place in self._places
            for name in tree.path_strings(self.args[place], argument_name(self.losses_fn, place))
        ]
        sizes: dict[int, str] = {}
        for name, leaf in zip(names, self.batch, strict=True):
            if not isinstance(leaf, Tensor):
                raise TypeError(
                    f"{self.transform}: {name} is {describe(leaf)}, expected a tensor with the "
                    "examples along its first axis. Close over what all examples share."
                )
            if leaf.ndim == 0:
                raise ValueError(
                    f"{self.transform}: {name} is {describe(leaf)}, which has no first axis for "
                    "the examples. Close over what all examples share."
                )
            sizes.setdefault(leaf.shape[0], name)
        if not sizes:
            raise ValueError(f"{self.transform}: {self.name} was called without a batch.")
        if len(sizes) > 1:
            found = ", ".join(f"{name} has {size}" for size, name in sizes.items())
            raise ValueError(
                f"{self.transform}: the leaves of the batch differ in length: {found}."
            )
        return next(iter(sizes))


def check_count(transform: str, name: str, count: int | None) -> None:
    """Refuse what cannot be a number of examples at a time."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"{transform}: expected an int >= 1 or None for {name}, got {count!r}.")
