"""What a misspelt or foreign name probably meant. Knows the names of other tools; knows no file and no value.

A name that stands in a table is answered by the table; only one that stands in none is answered by likeness.
"""

from __future__ import annotations

from difflib import get_close_matches

from tunesmith.config.secrets import advice, names_secret
from tunesmith.config.settings import sections, settings
from tunesmith.i18n import _

# Names of other trainers and of older scripts, by what they are called here. A dotted one holds in its group alone.
_FOREIGN = {
    # groups
    "data_args": "data",
    "file_load": "data",
    "gen_kwargs": "generation",
    "lora_config": "lora",
    "model_args": "model",
    "peft_config": "lora",
    "train_arg": "training",
    "train_args": "training",
    "training_args": "training",
    # model
    "base_model": "model.name_or_path",
    "mode_path": "model.name_or_path",
    "model_id": "model.name_or_path",
    "model_name": "model.name_or_path",
    "model_name_or_path": "model.name_or_path",
    "model_path": "model.name_or_path",
    "tokenizer_path": "model.tokenizer",
    "torch_dtype": "model.dtype",
    "trust_remote": "model.trust_remote_code",
    # template
    "chat_template": "template.path",
    "default_system": "template.system",
    "enablre_thinking": "template.enable_thinking",
    "system_prompt": "template.system",
    "template_path": "template.fallback",
    # data
    "cutoff_len": "data.max_length",
    "data_loader_num_workers": "data.num_proc",
    "data_path": "data.train",
    "dataloader_num_workers": "data.num_proc",
    "dataset": "data.train",
    "dataset_path": "data.train",
    "eval_data_path": "data.validation",
    "eval_dataset": "data.validation",
    "fuc": "data.format",
    "map_fuc": "data.format",
    "max_seq_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "model_max_length": "data.max_length",
    "preprocessing_num_workers": "data.num_proc",
    "sequence_len": "data.max_length",
    "split_method": "data.split_by",
    "test_data": "data.test",
    "test_data_path": "data.test",
    "test_dataset_path": "data.test",
    "test_file": "data.test",
    "train_data": "data.train",
    "train_data_path": "data.train",
    "train_dataset": "data.train",
    "train_file": "data.train",
    "val_size": "data.validation_ratio",
    "validation_data": "data.validation",
    "validation_file": "data.validation",
    # adapter
    "alpha": "lora.lora_alpha",
    "dropout": "lora.lora_dropout",
    "finetuning_type": "method",
    "lora_rank": "lora.r",
    "lora_target": "lora.target_modules",
    "rank": "lora.r",
    # training
    "batch_size": "training.per_device_train_batch_size",
    "clip_grad": "training.max_grad_norm",
    "deepspeed_config": "training.deepspeed",
    "ds_config": "training.deepspeed",
    "epochs": "training.num_train_epochs",
    "gradient_accumulation": "training.gradient_accumulation_steps",
    "lr": "training.learning_rate",
    "lr_scheduler": "training.lr_scheduler_type",
    "max_epochs": "training.num_train_epochs",
    "micro_batch_size": "training.per_device_train_batch_size",
    "num_epochs": "training.num_train_epochs",
    "output_path": "training.output_dir",
    "save_path": "training.output_dir",
    "scheduler": "training.lr_scheduler_type",
    # after training
    "generation.max_length": "generation.max_new_tokens",
    "max_new_token": "generation.max_new_tokens",
    # tracking and log
    "callbacks": "tracking.trace",
    "delay": "logging.typing_delay",
    "experiment_name": "tracking.experiment",
    "report_to": "tracking.trace",
    "run_name": "tracking.experiment",
    "trace": "tracking.trace",
}


def explain(name: str) -> str | None:
    """The sentence for a name of older scripts that no setting stands for; None for any other name."""
    key = _plain(name).rpartition(".")[2]
    if names_secret(key):
        return advice()
    return next((sentence for names, sentence in _answers() if key in names), None)


def _answers() -> list[tuple[tuple[str, ...], str]]:
    return [
        (("adapter_path", "lora_path"), _("What was trained is the first word of a command: tunesmith chat RUN.")),
        (("converted_file", "input_dir"), _("Raw data are converted and split by tunesmith data split RAW -o DIR.")),
        (
            ("dataset_class", "remove_columns"),
            _("File type and columns are recognised, and other columns are kept for evaluation. Leave it out."),
        ),
        (
            ("local_rank", "nproc", "nproc_per_node", "num_gpus", "num_processes"),
            _("How many processes train is said where they are started: tunesmith train --nproc 4, or torchrun."),
        ),
        (
            ("ignore_index",),
            _("Tokens that are not trained have no label here, so nothing has to mark them. Leave it out."),
        ),
        (("merge_path", "save_model_path"), _("A merged model is named when it is made: tunesmith merge RUN -o DIR.")),
        (("mode",), _("The mode is the command: tunesmith chat RUN, or tunesmith batch RUN IN -o OUT.")),
        (
            ("result1_path", "result2_path"),
            _("Results are compared by a command: tunesmith compare A B."),
        ),
        (
            ("save_on_each_node",),
            _("The first process writes, into a folder that all machines see. Leave it out."),
        ),
        (
            ("bos", "eos", "special_token", "special_tokens"),
            _("Special tokens are those of the tokenizer and its chat template. Leave it out."),
        ),
        (
            (
                *("add_generation_prompt", "add_special_tokens", "data_collator", "inference_mode", "padding"),
                *("return_dict", "return_tensors", "skip_special_tokens", "task_type", "tokenize"),
            ),
            _("This is done as the model needs it. Leave it out."),
        ),
    ]


def named(name: str) -> str | None:
    """The setting, or group of settings, that `name` is certain to mean: one of that name in its own group, then by
    the table, then one of that name elsewhere."""
    section, _dot, key = _plain(name).rpartition(".")
    section = _FOREIGN.get(section, section)
    here = [target for target in (*sections(), *settings()) if target.rpartition(".")[2] == key]
    foreign = _FOREIGN.get(f"{section}.{key}") or _FOREIGN.get(key)
    near = [target for target in (*here, foreign or "") if target.startswith(f"{section}.")]
    return next(iter(near), None) or foreign or next(iter(here), None)


def suggest(name: str) -> str | None:
    """The setting, or group of settings, that the unknown dotted `name` probably meant: `lora.rnak` -> `lora.r`."""
    if certain := named(name):
        return certain
    section, _dot, key = _plain(name).rpartition(".")
    known = {target.rpartition(".")[2]: target for target in (*_FOREIGN.values(), *sections(), *settings())} | _FOREIGN
    near = {word: target for word, target in known.items() if target.startswith(f"{section}.")}
    near |= {target.rpartition(".")[2]: target for target in settings() if target.startswith(f"{section}.")}
    for words, cutoff in ((near, 0.6), (known, 0.75)):
        if found := get_close_matches(key, list(words), 1, cutoff):
            return words[found[0]]
    return None


def closest(word: str, words: list[str]) -> str | None:
    """The one of `words` that is most like `word`, if any is."""
    alike = {each.lower(): each for each in words}
    found = get_close_matches(word.lower(), list(alike), 1, 0.5)
    return alike[found[0]] if found else None


def preset_name(name: str, names: list[str]) -> str | None:
    """The preset that a spelling means, None if it means none.

    `qwen2_5-14b` is qwen2.5-14b, `Qwen/Qwen3-8B` is qwen3-8b, `deepseek-r1-qwen-7b` leaves out a word, and a family's
    name alone (`gemma-3`) is its smallest model.
    """
    plain = name.rpartition("/")[2].lower().replace("_", ".")
    if plain in names:
        return plain
    words = plain.split("-")
    for some in (words, words[:-1] if words[-1] in ("chat", "instruct", "it") else []):
        if fitting := [each for each in names if _in_order(some, each.split("-"))]:
            return min(fitting, key=_size)
    return None


def _in_order(words: list[str], longer: list[str]) -> bool:
    """Whether `longer` begins with the first of `words` and has the others, in their order."""
    rest = iter(longer)
    return words[:1] == longer[:1] and all(word in rest for word in words)


def _size(name: str) -> float:
    """Billions of parameters, as a model's name says them (`0.5b`, `270m`); without a number it counts last."""
    for word in name.split("-"):
        digits, unit = word[:-1], word[-1:]
        if unit in ("b", "m") and digits.replace(".", "", 1).isdigit():
            return float(digits) / (1000 if unit == "m" else 1)
    return float("inf")


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
