"""chex's assertions, over torch.

- `shapes`, `scalars`, `structures`  look at shapes, dtypes, devices and structures only (and, of
  scalars, at Python numbers), so that they also work inside `jit`, `vmap` and `grad`
- `values`      compares values; a failure names every leaf that differs (`differences`)
- `programs`    how often a function is traced, whether it is one graph, what it writes
- `derivatives` against finite differences
"""
