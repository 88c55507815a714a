"""Evaluation: what `lptool evaluate` does, and what it shares with pooling: the setting that files ask for.

Read: setting (network and images, as the user names them, as the file says, or guessed), setup (everything opened and
checked), job (scores on test).
"""
