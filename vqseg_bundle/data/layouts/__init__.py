"""Layouts of folders of cases: one module per layout, which finds each :class:`FoundCase`."""
