"""The files of a pretrained model, before it is loaded.

- `identity`: what makes two models the same
- `preflight`: whether a model can be loaded, and which layers LoRA would meet
- `memory`: how much memory of a device training takes, by arithmetic
"""
