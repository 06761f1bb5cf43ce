"""The settings of a command: read, checked and refused before anything is built."""
