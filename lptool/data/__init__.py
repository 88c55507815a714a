"""Data: images by the name of a data set, split into train, val and test, augmented for training and BatchNorm alone.

Read: files (what is opened at all), colours (one picture as 8 bits), image_folder, images (in memory, streamed or
mapped, `Images`), augment, classes (whose numbers have to mean the same), arrays, shards, pictures (all of one size),
pixel_file and cache (decoded once), sources (what each name reads), dataset (`load_data` and `Data`), corruptions,
loose (pictures of no data set).
"""
