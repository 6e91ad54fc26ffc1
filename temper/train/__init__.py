"""Stages that change a model. `recipe` reads what was asked; `sft` and `grpo` do it; `trainer` holds the one TRL subclass."""
