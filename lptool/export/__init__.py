"""Export: a ticket in the forms that other programs read.

Read: timm_config, card (the model card), folder (Hugging Face layout), hub (`lptool push`), onnx, source (a file to be
converted), conversion (`lptool convert`).
"""
