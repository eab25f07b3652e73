"""The evidence: answers and weights in, probes, statistics, verdict and report out.

Start reading at `audit.probe`, the story of an audit in order.
"""
