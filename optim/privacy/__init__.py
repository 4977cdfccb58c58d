"""Private training: noise for sums of clipped gradients, and what it costs in epsilon and delta.

::

    batches = data.poisson_batches(train, 256, key=batch_key, steps=2_000)
    noise = privacy.noise_multiplier_for(
        8.0, 1e-5, steps=2_000, sampling=privacy.poisson(batches.probability))
    optimizer = optim.chain(
        privacy.dp_aggregate(noise, noise_key, expected_batch_size=256), optim.adam(1e-3))

    clipped = per_example.clipped_grad(losses_fn, max_norm=1.0, mask=mask)(params, images, labels)
    updates, state = optimizer.update(clipped, state, params)

- `aggregation`    `dp_aggregate`, independent noise: DP-SGD with any optimizer
- `correlated`     `dp_correlated_aggregate`, noise that cancels over steps: banded DP-FTRL
- `factorization`  the matrices that say how it cancels, their sensitivity and error
- `sampling`       how batches are drawn, which is half of what is accounted for
- `accounting`     `epsilon`, `noise_multiplier_for`, `steps_for`; `accountants` is the only door to
  dp-accounting, which the extra `privacy` installs
- `noise`          Gaussian numbers, and what is refused of a sum

What cannot be written down, or is refused: gradients that were not clipped, or a mean of them (only
a `ClippedGrad` is taken, whose sum carries its sensitivity); a batch size that depends on what was
drawn; a sensitivity that is no positive finite number; a loss that mixes examples, such as batch
norm (by `per_example`); one key for the models of a `vmap`; shuffled batches accounted as Poisson
samples; a Poisson batch cut off without a word; a matrix mechanism that runs past its steps; fixed
sizes accounted without the factor 2 of replacing an example; sums rounded to half precision.

What nobody but you can see:

- A state or key used twice. Noise must never come twice: of two runs from one key, or of a step
  that is tried again from the same state with other data, only one result may be shown. The keys of
  batches and noise must be different, and secret for ever, as must the batches.
- Everything else that looks at the data: losses, gradient norms and accuracies on training data,
  statistics used to normalize them, hyperparameters chosen by running again, early stopping, the
  decision to publish. `values` and `norms` of a `ClippedGrad` are not private. Adapting `max_norm`
  to the norms spends privacy of its own.
- The sampling that was named is the one that was drawn, for each step that was taken, and the steps
  that were taken are all counted. `expected_batch_size` is what the sampling expects.
- A person with several rows. Epsilon is that of a row.
- Whether delta is well below one over the number of rows, and which data sets count as adjacent:
  adding or removing one row, or replacing one, which with the same noise costs more than twice the
  epsilon.
- Floating point. Noise is drawn and added in float64, so that its tails are whole, but numbers of
  finite precision are no real numbers (Mironov 2012), and threefry is no cipher made for secrecy.
"""

from .accounting import epsilon, noise_multiplier_for, steps_for
from .aggregation import DPAggregateState, dp_aggregate
from .correlated import DPCorrelatedState, dp_correlated_aggregate
from .factorization import BandedToeplitz, Participation, optimized_factor, square_root_factor
from .sampling import FixedSize, FullBatch, Poisson, Sampling, fixed_size, full_batch, poisson

__all__ = [
    "BandedToeplitz",
    "DPAggregateState",
    "DPCorrelatedState",
    "FixedSize",
    "FullBatch",
    "Participation",
    "Poisson",
    "Sampling",
    "dp_aggregate",
    "dp_correlated_aggregate",
    "epsilon",
    "fixed_size",
    "full_batch",
    "noise_multiplier_for",
    "optimized_factor",
    "poisson",
    "square_root_factor",
    "steps_for",
]
