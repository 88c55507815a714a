"""Pooling: tickets of one run into one model that is more accurate at the same sparsity.

The method first, which knows tensors and a function that scores them: catalogue (what methods there are), mixing
(`interpolate`), choice, outcome, search (Algorithm 2), window, learned, methods (`pool_tickets`). Then the job around
it: scorer (that function, over a network and val), journal, gradient, layers, least_squares and reconstruction (what
`reconstruct` fits), calibration (images for BatchNorm), setup (`Bench`), decoding (pictures decoded once), targets,
fitting_size, comparisons (barriers, the ensemble), fingerprint, outputs, result, verdict, finish, job.
"""
