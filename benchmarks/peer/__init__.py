"""The letKD training step in PyTorch, op by op as one normally writes it: what ours is timed with.

It is no part of the package and shares no code with it. Networks have RepDistiller's module names.
"""
