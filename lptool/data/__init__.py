"""Data: images by the name of a data set, split into train, val and test, augmented for training and BatchNorm alone.

Read: images (in memory, streamed or mapped, `Images`), augment, shards, pictures (files on disk), pixel_file and cache
(decoded once), sources (what each name reads), dataset (`load_data` and `Data`), corruptions.
"""
