"""What trains: adapters by distillation, the corpus they learn from, the tiny base model, the ablation."""
