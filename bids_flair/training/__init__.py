"""Training of models, from real people and simulated ones."""
