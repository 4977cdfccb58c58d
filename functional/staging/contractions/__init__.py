"""Per-example products that are only squared and summed, or weighted and summed: never formed.

The textbook program for clipped per-example gradients forms, for every weight, the outer products
`g_b = p_b q_b'` of all examples `b`, takes their norms, and sums them with weights. Both are
cheaper in another order::

    |p q'|^2 = |p|^2 |q|^2            sum_b w_b p_b q_b' = (w p)' q

`products` finds the products in a graph, `meaning` follows what becomes of them (views, transposes,
sums, weights, squares), `layout` decides what is summed where, and `computation` writes the sums
anew. Each step is an identity of algebra. A product of which anything else is read stays.
"""

from __future__ import annotations

from .rewriting import Contracted, contract

__all__ = ["Contracted", "contract"]
