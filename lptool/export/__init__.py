"""Export: a ticket in the forms that other programs read.

Read: timm_config, card (the model card), folder (Hugging Face layout), hub (`lptool push`); onnx, onnx_int8, program
(networks without their code); then `lptool convert`: source (a file, completed), accuracy (before and after), fitting
(into so many bytes), writers, conversion.
"""
