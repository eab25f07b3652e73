"""The pipeline: teachers, their signals on disk, the loss, training, evaluation and the record.

Start reading at `distill.run`, the story of a run in order.
"""
