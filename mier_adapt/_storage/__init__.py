"""Files and state: checkpoints, locks, randomness, state trees. Nothing here is public."""
