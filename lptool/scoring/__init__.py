"""Scoring: a network on images, counted.

A `Score` is images right, negative log-likelihood and how many images; `BatchSize` finds out what fits in memory.

Read: batching, batchnorm (running statistics renewed), weights (each tensor of a network once), score, paired (tests of
two models), metrics (intervals, calibration), cost, latency.
"""
