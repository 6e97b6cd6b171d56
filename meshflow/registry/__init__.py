"""Finding plugins, choosing the providers of each stage, and making them."""
