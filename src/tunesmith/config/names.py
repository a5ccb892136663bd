"""What a misspelt or foreign name probably meant. Knows the names of other tools; knows no file and no value."""

from __future__ import annotations

from difflib import get_close_matches

from tunesmith.config.settings import sections, settings

# Names of other trainers and of older scripts. This table wins over likeness.
_FOREIGN = {
    "base_model": "model.name_or_path",
    "batch_size": "training.per_device_train_batch_size",
    "chat_template": "template.path",
    "clip_grad": "training.max_grad_norm",
    "cutoff_len": "data.max_length",
    "data_args": "data",
    "data_path": "data.train",
    "dataset": "data.train",
    "dataset_path": "data.train",
    "default_system": "template.system",
    "device_map": "model.device",
    "enable_thinking": "template.kwargs",
    "epochs": "training.num_train_epochs",
    "eval_data_path": "data.validation",
    "file_load": "data",
    "finetuning_type": "method",
    "gradient_accumulation": "training.gradient_accumulation_steps",
    "lora_config": "lora",
    "lora_rank": "lora.r",
    "lora_target": "lora.target_modules",
    "lr": "training.learning_rate",
    "lr_scheduler": "training.lr_scheduler_type",
    "map_fuc": "data.format",
    "max_epochs": "training.num_train_epochs",
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "micro_batch_size": "training.per_device_train_batch_size",
    "model_args": "model",
    "model_id": "model.name_or_path",
    "model_max_length": "data.max_length",
    "model_name": "model.name_or_path",
    "model_name_or_path": "model.name_or_path",
    "model_path": "model.name_or_path",
    "num_epochs": "training.num_train_epochs",
    "output_path": "training.output_dir",
    "rank": "lora.r",
    "alpha": "lora.lora_alpha",
    "dropout": "lora.lora_dropout",
    "save_model_path": "training.output_dir",
    "save_path": "training.output_dir",
    "scheduler": "training.lr_scheduler_type",
    "sequence_len": "data.max_length",
    "split_method": "data.split_by",
    "system_prompt": "template.system",
    "template_path": "template.path",
    "test_data": "data.test",
    "test_data_path": "data.test",
    "tokenizer_path": "model.tokenizer",
    "torch_dtype": "model.dtype",
    "train_arg": "training",
    "train_data": "data.train",
    "train_data_path": "data.train",
    "train_file": "data.train",
    "training_args": "training",
    "val_size": "data.validation_ratio",
    "validation_data": "data.validation",
    "validation_file": "data.validation",
}


def suggest(name: str) -> str | None:
    """The setting, or group of settings, that the unknown dotted `name` probably meant: `lora.rnak` -> `lora.r`."""
    section, _dot, key = name.lower().replace("-", "_").rpartition(".")
    known: dict[str, list[str]] = {}
    for target in (*sections(), *settings()):
        known.setdefault(target.rpartition(".")[2], []).append(target)
    for foreign, target in _FOREIGN.items():
        known[foreign] = [target, *known.get(foreign, [])]
    near = {word: [t for t in targets if t.startswith(f"{section}.")] for word, targets in known.items()}
    for words, cutoff in ((near, 1.0), (known, 1.0), (near, 0.6), (known, 0.75)):
        found = get_close_matches(key, [word for word, targets in words.items() if targets], 1, cutoff)
        if found:
            return words[found[0]][0]
    return None


def closest(word: str, words: list[str]) -> str | None:
    """The one of `words` that is most like `word`, if any is."""
    alike = {each.lower(): each for each in words}
    found = get_close_matches(word.lower(), list(alike), 1, 0.5)
    return alike[found[0]] if found else None
