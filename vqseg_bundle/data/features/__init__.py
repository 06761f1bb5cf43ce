"""Features of a foundation model: computed per slice, kept on disk, sampled per view."""
