"""Reports: results as JSON documents and as tables for a terminal; `html` draws pages from the documents.

`tables` has what terminal and pages share, `terminal` how wide a table is on one. Then one module for each command
that prints a result: inspect, convert, train, pool, evaluate, predict. `runs` reads documents back, for compare (gains
over several runs, with tests), compared (its tables) and figure.
"""
