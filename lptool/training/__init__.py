"""Training: iterative magnitude pruning, which makes the tickets of a run where there are none.

Nothing that pools imports this room. Read: options, presets, schedule, pruning, start (weights to begin with), steps
(one optimizer step after another), parallel (several processes), folder (what a run leaves on disk, and how it goes
on), setup, epoch, job (`train_tickets`), plan (what a run will cost).
"""
