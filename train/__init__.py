"""What trains: adapters by distillation, the corpus they learn from, the tiny base model, the ablation.

Run from the repository's root; nothing of it is installed.  By command::

    python -m train.demo        what `make demo` does: draw, distil, ask, export
    python -m train.distill     distil a side branch or a LoRA into a frozen model
                                recipe, settings -> job -> data, examples, backbone, cache* , teachers -> batches
                                -> side_branch | lora (students) -> objective, losses -> loop, schedule, run_folder -> card
    python -m train.teachers    features of a vision teacher, computed ahead
    python -m train.corpus      DermCoT: photographs and labels to narratives, scored, reviewed, split
    python -m train.diagnose    let a model answer about held-out pictures; accuracy, findings, skin groups
    python -m train.ablation    base, + DermCoT, + visual distillation, LoRA, compared with paired tests
    python -m train.probe       what mean colour alone can tell
    python -m train.tiny_base   the tiny base model from scratch
"""
