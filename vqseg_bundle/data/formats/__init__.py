"""Volume formats: one record each in one table, and modules that read them to ``(X, Y, Z)`` or ``(X, Y, Z, C)``."""
