"""Parts of the commands that bundle, pack and compare trained networks."""
