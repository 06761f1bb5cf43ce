"""Volume formats: a table of one record each, and modules that read them as ``(X, Y, Z)`` or ``(X, Y, Z, C)``."""
