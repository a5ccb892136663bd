"""Every setting that exists, once: its name, type, range, default and meaning.

Names are those of transformers and peft. Nothing here reads a file, knows where a value came from, or loads torch.
A room is given its own section, never the whole.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from tunesmith.i18n import _

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False)


class ModelSection(Section):
    name_or_path: str | None = Field(None, description="Base model: a hub id, a folder, or a GGUF file.")
    tokenizer: str | None = Field(None, description="Tokenizer folder, where it is not the model's own.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Type of the weights in memory; auto is bfloat16 where the machine can, else float32."
    )
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps; auto takes the GPU if there is one.")
    device_map: Literal["auto", "balanced", "sequential"] | None = Field(
        None, description="Spread the layers over all GPUs, as transformers does; by default one device holds them."
    )
    load_in_4bit: bool = Field(False, description="Keep the base in 4 bit and train an adapter on it (QLoRA).")
    load_in_8bit: bool = Field(False, description="Keep the base in 8 bit and train an adapter on it.")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field("nf4", description="Kind of the 4-bit numbers.")
    bnb_4bit_use_double_quant: bool = Field(False, description="Pack the scales of the 4-bit numbers too.")
    trust_remote_code: bool = Field(False, description="Run Python code that lies in the model's folder.")

    @field_validator("device")
    @classmethod
    def _a_device(cls, given: str) -> str:
        if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu|npu|hpu|mlu|musa)(:\d+)?", given):
            text = _("There is no device {device}; there are cpu, cuda, cuda:1, mps and others like them, and auto.")
            raise ValueError(text.format(device=given))
        return given


class TemplateSection(Section):
    path: Path | None = Field(
        None, description="Chat template instead of the tokenizer's: a Jinja or JSON file, or a shipped one's name."
    )
    fallback: str | None = Field(None, description="The same, only for a tokenizer that has none.")
    system: str | None = Field(
        None, description="System prompt for rows that have none; '{scene}' stands for the row's column of that name."
    )
    thinking: Literal["keep", "strip"] | None = Field(
        None, description="Reasoning: train it before the answer (keep) or leave it out (strip)."
    )
    enable_thinking: bool | None = Field(
        None, description="false puts the family's empty reasoning block before every answer, untrained."
    )
    date: str | None = Field(
        None, pattern=r"^\d{4}-\d\d-\d\d$", description="The day that the template calls today; fixed for a run."
    )
    kwargs: dict[str, Any] = Field({}, description="More variables for the chat template, such as reasoning_effort.")

    @field_validator("date")
    @classmethod
    def _a_day(cls, given: str | None) -> str | None:
        try:
            date.fromisoformat(given or "2000-01-01")
        except ValueError:
            raise ValueError(_("There is no day {day}.").format(day=given)) from None
        return given


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise ValueError(_("This is not a regular expression: {why}.").format(why=error)) from error


class WeightRule(Section):
    """Characters of answers that count more or less: a text, or what a regular expression matches."""

    text: Annotated[str, Field(min_length=1)] | None = Field(None, description="The text, as it stands.")
    pattern: Annotated[str, Field(min_length=1)] | None = Field(None, description="A regular expression.")
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        description="Its weight in the loss: 1 as usual, 0 untrained."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> WeightRule:
        if (self.text is None) == (self.pattern is None):
            raise ValueError(_("Give either text or pattern."))
        _compiled(self.pattern or "")
        return self


class DataSection(Section):
    train: Path | list[Path] | None = Field(None, description="Training rows: a file, a folder, or a list of them.")
    validation: Path | None = Field(None, description="Rows that choose the best checkpoint.")
    test: Path | None = Field(None, description="Rows that only evaluation sees.")
    test_ratio: Share = Field(0.0, description="Share of the training rows that is split off as test rows.")
    validation_ratio: Share = Field(0.0, description="Share of the training rows that is split off as validation.")
    stratify_by: str | None = Field(None, description="Column whose every value must reach the split-off rows.")
    split_by: str | None = Field(None, description="Column whose equal values stay on one side of a split.")
    split_pattern: str | None = Field(
        None, description="Part of split_by's values that groups, in parentheses: '(.*)-(bad|good)' pairs them."
    )
    singletons: Literal["test", "train", "error"] = Field(
        "test", description="Values of stratify_by that can't be divided (one row): test them, train them, or stop."
    )
    format: str | None = Field(
        None, description="Name of the data's format, or your own: a Python file or module with parse(row)."
    )
    mapping: dict[str, str] = Field({}, description="Columns of your own: {system: ..., user: ..., assistant: ...}.")
    prompt_template: str | None = Field(None, description="Prompt written from a row's fields: 'Task: {task}'.")
    answer_template: str | None = Field(
        None, description="Answer written from a row's fields; read back by evaluation."
    )
    weights: list[WeightRule] = Field(
        [], description="Parts of answers that count more or less: [{text: Judgement, weight: 2}, {pattern: ...}]."
    )
    max_length: Annotated[int, Field(ge=8)] = Field(2048, description="Longest context and answer together, in tokens.")
    overflow: Literal["trim_history", "drop", "error"] = Field(
        "trim_history", description="Too long: leave out oldest turns, drop the row, or stop. Answers are never cut."
    )
    max_dropped: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05, description="Largest share of rows that may be rejected or dropped before training is refused."
    )
    drop_duplicates: bool = Field(True, description="Train a row that occurs several times only once.")
    num_proc: Positive | None = Field(
        None, description="Processes that encode rows; by default one for each core that may be used, one for few rows."
    )
    cache: str = Field(
        "auto", description="Keep encoded rows for the next start: auto (for large data), off, or a folder for them."
    )

    @field_validator("split_pattern")
    @classmethod
    def _has_a_group(cls, given: str | None) -> str | None:
        if given and not _compiled(given).groups:
            raise ValueError(_("The pattern needs parentheses around what groups, such as (.*)-(bad|good)."))
        return given


class CleanSection(Section):
    min_answer: int = Field(1, ge=0, description="data clean: fewest characters of an answer.")
    max_chars: Positive = Field(50_000, description="data clean: most characters of a row, all messages together.")
    max_repeat: int = Field(
        30, ge=0, description="data clean: how often up to 8 characters may stand in a row; 0 is any number."
    )
    garbled: bool = Field(True, description="data clean: remove text that was read in the wrong encoding.")
    duplicates: bool = Field(True, description="data clean: remove rows that repeat an earlier one.")
    near_duplicates: float = Field(
        0.9, ge=0, le=1, description="data clean: share of equal pieces from which rows nearly repeat; 0 keeps them."
    )
    refusals: bool = Field(True, description="data clean: remove rows whose last answer only refuses to answer.")
    copies: bool = Field(True, description="data clean: remove rows in which an answer copies the question.")


class LoraSection(Section):
    r: Positive = Field(8, description="Rank.")
    lora_alpha: Annotated[float, Field(gt=0)] = Field(16, description="Scale: the update counts lora_alpha / r.")
    lora_dropout: Share = Field(0.0, description="Dropout on the adapter's input.")
    target_modules: str | list[str] = Field("all-linear", description="all-linear, or names such as [q_proj, v_proj].")
    use_rslora: bool = Field(False, description="Scale by lora_alpha / sqrt(r).")
    use_dora: bool = Field(False, description="Train size and direction of the weights apart (DoRA); slower.")
    layers_to_transform: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Layers that get an adapter, counted from 0: [20, 21, 22]; by default all."
    )
    modules_to_save: list[str] = Field([], description="Modules trained whole beside the adapter: [lm_head].")
    trainable_token_indices: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Ids of tokens whose embeddings are trained too: [49150, 49151]."
    )

    @field_validator("target_modules")
    @classmethod
    def _names(cls, given: str | list[str]) -> str | list[str]:
        """`q_proj, v_proj` in one text is a list of names; all-linear stays what it is."""
        if isinstance(given, str) and given != "all-linear":
            return [name.strip() for name in given.split(",")]
        return given


class TrainingSection(Section):
    output_dir: Path | None = Field(None, description="The run folder; by default runs/NAME-OF-THE-DATA.")
    num_train_epochs: Annotated[float, Field(gt=0)] = Field(3.0, description="Passes over the training rows.")
    max_steps: int = Field(-1, ge=-1, description="Stop after so many steps; -1 leaves it to the epochs.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-4, description="Peak learning rate.")
    per_device_train_batch_size: Positive = Field(8, description="Conversations a step on each device.")
    gradient_accumulation_steps: Positive = Field(1, description="Batches a step.")
    per_device_eval_batch_size: Positive = Field(8, description="Conversations at once when the loss is evaluated.")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field("cosine", description="Course of the rate.")
    warmup_ratio: Share = Field(0.03, description="Share of the steps in which the rate rises.")
    warmup_steps: int = Field(0, ge=0, description="Steps in which the rate rises; wins over warmup_ratio.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW's decay; not of biases and norms.")
    adam_beta1: Share = Field(0.9, description="AdamW's first moment.")
    adam_beta2: Share = Field(0.999, description="AdamW's second moment.")
    adam_epsilon: Annotated[float, Field(gt=0)] = Field(1e-8, description="AdamW's epsilon.")
    max_grad_norm: Annotated[float, Field(ge=0)] = Field(1.0, description="Clip gradients to this norm; 0 leaves them.")
    gradient_checkpointing: bool = Field(False, description="Compute activations twice to keep fewer of them.")
    kernels: Literal["fast", "plain"] = Field(
        "fast", description="How a step is computed: fast, or by the libraries' own operations (plain), to compare."
    )
    bf16: bool | None = Field(None, description="Compute in bfloat16; by default where the weights are bfloat16.")
    fp16: bool = Field(False, description="Compute in float16 with loss scaling (a GPU is needed).")
    deepspeed: Path | None = Field(
        None, description="Train by DeepSpeed with this file of its settings; zero2, zero3, zero3-offload are shipped."
    )
    fsdp: Literal["full_shard", "shard_grad_op"] | None = Field(
        None, description="Spread weights, gradients and optimizer over the processes, layer by layer (FSDP2)."
    )
    ddp_timeout: Positive = Field(1800, description="Seconds that a process waits for the others before all stop.")
    logging_steps: Positive = Field(1, description="Steps between two records of the loss.")
    eval_steps: Positive | None = Field(None, description="Steps between two evaluations; by default save_steps.")
    save_steps: Positive | None = Field(None, description="Steps between two checkpoints; by default an epoch.")
    save_total_limit: Positive | None = Field(3, description="Checkpoints kept; the best and the last always are.")
    metric_for_best_model: str | None = Field(
        None, description="Figure that chooses the best checkpoint: loss (the default), perplexity, accuracy, ..."
    )
    greater_is_better: bool | None = Field(
        None, description="Whether more of that figure is better; by default of all but loss and perplexity."
    )
    early_stopping_patience: Positive | None = Field(
        None, description="Stop after so many evaluations without a better figure."
    )
    seed: int = Field(42, ge=0, description="Seed of order, dropout and new weights.")


class EvaluationSection(Section):
    group_by: str | None = Field(
        None, description="Column, or field of answer_template, for accuracy by group; by default data.stratify_by."
    )
    metrics: list[str] | None = Field(None, description="Names of metrics, or Python files; by default by the data.")
    answer_template: str | None = Field(
        None,
        description="Reads answers back where the rows are conversations already; by default data.answer_template.",
    )
    label: str | None = Field(None, description="Field of answer_template that decides; by default its first.")
    limit: Positive | None = Field(None, description="Evaluate only so many rows.")
    during_training: Annotated[int, Field(ge=0)] = Field(
        0, description="Validation rows that are answered and scored at each evaluation while training."
    )
    samples: Annotated[int, Field(ge=0)] | list[str] = Field(
        0,
        description="Answers kept at each evaluation while training: so many validation rows, or a list of questions.",
    )


class GenerationSection(Section):
    max_new_tokens: Positive = Field(256, description="Longest answer, in tokens; the prompt does not count.")
    do_sample: bool = Field(False, description="Draw tokens by chance; otherwise the likeliest is taken.")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="Flattens or sharpens the draw.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Draw from the likeliest with this mass.")
    top_k: Annotated[int, Field(ge=0)] = Field(50, description="Draw from so many likeliest tokens; 0 is all.")
    repetition_penalty: Annotated[float, Field(gt=0)] = Field(1.0, description="Above 1 repeats less.")
    seed: int = Field(42, ge=0, description="Seed of the draws: the same question is answered the same way again.")
    batch_size: Positive = Field(8, description="Prompts at once in batch and eval.")
    kernels: Literal["fast", "plain"] = Field(
        "fast", description="Batches are computed by our fast code, or plainly by the model's library, to compare."
    )


Traced = Literal["tensorboard", "wandb", "swanlab", "trackio", "mlflow"]


def _several(given: Any) -> Any:
    """`a, b` in one text is a list of names; `none` is an empty one."""
    return [name.strip() for name in given.split(",") if name.strip() != "none"] if isinstance(given, str) else given


class TrackingSection(Section):
    trace: Annotated[
        list[Traced],
        BeforeValidator(_several),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "enum": ["none", *get_args(Traced)]},
                    {"type": "array", "items": {"type": "string", "enum": list(get_args(Traced))}},
                ]
            }
        ),
    ] = Field([], description="Where the numbers are shown while training runs; metrics.jsonl is always written.")
    project: str = Field("tunesmith", min_length=1, description="The project there, which gathers runs.")
    experiment: str | None = Field(None, description="The name of this run there; by default the run folder's.")


class LoggingSection(Section):
    level: Literal["debug", "info", "warning"] = Field(
        "info", description="What tunesmith.log holds: debug adds every record of the loss, warning only what is amiss."
    )
    typing_delay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Seconds between two letters, to type lines out in a terminal; files are not slowed."
    )


class Config(Section):
    preset: str | None = Field(None, description="Values underneath these: a shipped preset's name or a YAML file.")
    method: Literal["lora", "full"] = Field("lora", description="Train an adapter, or all weights.")
    model: ModelSection = ModelSection()
    template: TemplateSection = TemplateSection()
    data: DataSection = DataSection()
    clean: CleanSection = CleanSection()
    lora: LoraSection = LoraSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    generation: GenerationSection = GenerationSection()
    tracking: TrackingSection = TrackingSection()
    logging: LoggingSection = LoggingSection()

    @property
    def answer_template(self) -> str | None:
        """What reads answers back into fields."""
        return self.evaluation.answer_template or self.data.answer_template

    @model_validator(mode="after")
    def _contradictions(self) -> Config:
        """What no single field can see. One message for each, joined by a line break."""
        found = []
        if self.training.bf16 and self.training.fp16:
            found.append(_("training.bf16 and training.fp16 are both on. Choose one."))
        if self.training.deepspeed and self.training.fsdp:
            found.append(_("training.deepspeed and training.fsdp are both set. Choose one."))
        found += self._model_contradictions()
        if self.data.test and self.data.test_ratio:
            found.append(_("data.test and data.test_ratio are both set. Give a file or a share."))
        if self.data.validation and self.data.validation_ratio:
            found.append(_("data.validation and data.validation_ratio are both set. Give a file or a share."))
        if self.data.test_ratio + self.data.validation_ratio >= 1:
            found.append(_("data.test_ratio and data.validation_ratio leave nothing to train."))
        if self.data.answer_template and not self.data.prompt_template:
            found.append(_("data.answer_template needs data.prompt_template beside it."))
        template = self.template
        if template.enable_thinking is False and template.thinking == "keep":
            text = _("template.thinking: keep trains reasoning, and template.enable_thinking: false allows none.")
            found.append(text + " " + _("Choose one."))
        if template.enable_thinking is not None and "enable_thinking" in template.kwargs:
            found.append(_("template.enable_thinking is also in template.kwargs. Keep the first."))
        if self.data.split_pattern and not self.data.split_by:
            found.append(_("data.split_pattern needs data.split_by beside it."))
        if found:
            raise ValueError("\n".join(found))
        return self

    def _model_contradictions(self) -> list[str]:
        model, training, found = self.model, self.training, []
        packed = model.load_in_4bit or model.load_in_8bit
        if model.load_in_4bit and model.load_in_8bit:
            found.append(_("model.load_in_4bit and model.load_in_8bit are both on. Choose one."))
        if packed and self.method == "full":
            found.append(_("Weights in 4 or 8 bit can't be trained themselves. Choose method: lora."))
        if (model.bnb_4bit_quant_type != "nf4" or model.bnb_4bit_use_double_quant) and not model.load_in_4bit:
            found.append(_("model.bnb_4bit_... has no effect without model.load_in_4bit: true."))
        if model.device_map and model.device != "auto":
            found.append(_("model.device_map and model.device are both set. Choose one."))
        if training.bf16 is False and model.dtype == "bfloat16":
            found.append(_("training.bf16 is off and model.dtype is bfloat16. Leave one out."))
        if training.bf16 and model.dtype == "float16":
            found.append(_("training.bf16 is on and model.dtype is float16. Leave one out."))
        if training.fp16 and model.dtype == "bfloat16":
            found.append(_("training.fp16 is on and model.dtype is bfloat16. Leave one out."))
        if self.method == "full" and model.dtype == "float16":
            found.append(
                _("float16 weights can't be trained themselves. Leave model.dtype out: training.fp16 is enough.")
            )
        return found
