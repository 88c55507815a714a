"""Evaluation: what `lptool evaluate` does, and what it shares with pooling: the setting that files ask for.

Read: setting (network and images: named, told or guessed), setup (everything opened and checked), job (scores on test).
"""
