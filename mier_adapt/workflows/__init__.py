"""Meta-training, adaptation and evaluation, end to end."""
