"""The measurements of many runs, one a file: at which points, what is measured there, and how it is drawn.

`simulations.sweep` knows them by name.  Points and rows are plain data, and a row depends on its point alone,
so it does not matter where it is measured.
"""
