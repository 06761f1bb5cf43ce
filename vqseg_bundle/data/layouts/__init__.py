"""How folders of cases are laid out: a module for each layout, in the form of :class:`FoundCase`."""
