"""Transformations of transformations: where, when and on what an update is computed."""
