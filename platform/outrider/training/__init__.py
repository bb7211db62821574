"""From nothing to demo models: text, tokenizer, targets, regenerated answers, drafters, evaluation."""
