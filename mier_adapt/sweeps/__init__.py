"""Sweeps: grids of runs and adaptations, in this process or as tasks of Ray."""

__all__: list[str] = []  # a sweep is a file and a directory: its users are in shells
