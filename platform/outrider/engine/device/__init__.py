"""Rounds that stay on the target's device until their tokens are known."""
