"""Reports: results as JSON documents and as tables for a terminal; `html` draws pages from the documents.

One module for each command that prints a result: inspect, convert, train, pool, evaluate.
"""
