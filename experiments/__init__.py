"""The experiments: `python -m experiments NAME [options]`, or `all` of them.

Each is a module of its name, or a folder whose files say their job: `sweep` (options and grids),
`analysis` (stored results -> numbers and claims), `figure` (what is stored -> pictures).
"""
