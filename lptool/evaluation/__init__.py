"""Evaluation: what `lptool evaluate` and `lptool predict` do, and what they share with pooling: what files ask for.

Read: setting (network and images, as the user names them, as the file says, or guessed), setup (everything opened and
checked), job (scores on test), prediction (classes of pictures).
"""
