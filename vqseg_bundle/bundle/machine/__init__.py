"""The machine: threads, number types, memory, processes, and one process a folder."""
