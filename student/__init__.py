"""The model that is trained: an MLA/MoE student, its configuration, weights and device.

Importing this package loads neither torch nor transformers; its modules do.
"""
