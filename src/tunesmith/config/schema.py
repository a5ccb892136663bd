"""Every setting that exists, once: its name, type, range, default and meaning.

Names are those of transformers and peft. Nothing here reads a file, knows where a value came from, or loads torch.
A room is given its own section, never the whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tunesmith.i18n import _

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=())


class ModelSection(Section):
    name_or_path: str | None = Field(None, description="Base model: a hub id, a folder, or a GGUF file.")
    tokenizer: str | None = Field(None, description="Tokenizer folder, where it is not the model's own.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Type of the weights in memory; auto is bfloat16 where the machine can, else float32."
    )
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps; auto takes the GPU if there is one.")
    trust_remote_code: bool = Field(False, description="Run Python code that lies in the model's folder.")


class TemplateSection(Section):
    path: Path | None = Field(None, description="A Jinja chat template of your own, before the tokenizer's.")
    fallback: str | None = Field(
        None, description="Shipped template (its file name) or a path, for a tokenizer that has none."
    )
    system: str | None = Field(None, description="System prompt for rows that have none.")
    thinking: Literal["keep", "strip"] | None = Field(
        None, description="Reasoning: train it before the answer (keep) or leave it out (strip)."
    )
    date: str | None = Field(
        None, pattern=r"^\d{4}-\d\d-\d\d$", description="The day that the template calls today; fixed for a run."
    )
    kwargs: dict[str, Any] = Field({}, description="More variables for the chat template, such as enable_thinking.")


class DataSection(Section):
    train: Path | list[Path] | None = Field(None, description="Training rows: a file, a folder, or a list of them.")
    validation: Path | None = Field(None, description="Rows that choose the best checkpoint.")
    test: Path | None = Field(None, description="Rows that only evaluation sees.")
    test_ratio: Share = Field(0.0, description="Share of the training rows that is split off as test rows.")
    validation_ratio: Share = Field(0.0, description="Share of the training rows that is split off as validation.")
    stratify_by: str | None = Field(None, description="Column whose every value must reach the split-off rows.")
    split_by: str | None = Field(None, description="Column whose equal values stay on one side of a split.")
    format: str | None = Field(None, description="Name of the data's format, or a Python file with detect and parse.")
    mapping: dict[str, str] = Field({}, description="Columns of your own: {system: ..., user: ..., assistant: ...}.")
    prompt_template: str | None = Field(None, description="Prompt written from a row's fields: 'Task: {task}'.")
    answer_template: str | None = Field(
        None, description="Answer written from a row's fields; read back by evaluation."
    )
    max_length: Annotated[int, Field(ge=8)] = Field(2048, description="Longest context and answer together, in tokens.")
    overflow: Literal["trim_history", "drop", "error"] = Field(
        "trim_history", description="Too long: leave out oldest turns, drop the row, or stop. Answers are never cut."
    )
    max_dropped: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05, description="Largest share of rows that may be rejected or dropped before training is refused."
    )
    drop_duplicates: bool = Field(True, description="Train a row that occurs several times only once.")


class LoraSection(Section):
    r: Positive = Field(8, description="Rank.")
    lora_alpha: Annotated[float, Field(gt=0)] = Field(16, description="Scale: the update counts lora_alpha / r.")
    lora_dropout: Share = Field(0.0, description="Dropout on the adapter's input.")
    target_modules: str | list[str] = Field("all-linear", description="all-linear, or names such as [q_proj, v_proj].")
    use_rslora: bool = Field(False, description="Scale by lora_alpha / sqrt(r).")

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
    bf16: bool | None = Field(None, description="Compute in bfloat16; by default where the weights are bfloat16.")
    fp16: bool = Field(False, description="Compute in float16 with loss scaling (a GPU is needed).")
    logging_steps: Positive = Field(1, description="Steps between two records of the loss.")
    eval_steps: Positive | None = Field(None, description="Steps between two evaluations; by default save_steps.")
    save_steps: Positive | None = Field(None, description="Steps between two checkpoints; by default an epoch.")
    save_total_limit: Positive | None = Field(3, description="Checkpoints kept; the best and the last always are.")
    early_stopping_patience: Positive | None = Field(
        None, description="Stop after so many evaluations without a lower loss."
    )
    seed: int = Field(42, ge=0, description="Seed of order, dropout and new weights.")


class EvaluationSection(Section):
    group_by: str | None = Field(None, description="Column for accuracy by group; by default data.stratify_by.")
    metrics: list[str] | None = Field(None, description="Names of metrics, or Python files; by default by the data.")
    label: str | None = Field(None, description="Field of answer_template that decides; by default its first.")
    limit: Positive | None = Field(None, description="Evaluate only so many rows.")


class GenerationSection(Section):
    max_new_tokens: Positive = Field(256, description="Longest answer, in tokens; the prompt does not count.")
    do_sample: bool = Field(False, description="Draw tokens by chance; otherwise the likeliest is taken.")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="Flattens or sharpens the draw.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Draw from the likeliest with this mass.")
    top_k: Annotated[int, Field(ge=0)] = Field(50, description="Draw from so many likeliest tokens; 0 is all.")
    repetition_penalty: Annotated[float, Field(gt=0)] = Field(1.0, description="Above 1 repeats less.")
    batch_size: Positive = Field(8, description="Prompts at once in batch and eval.")


class Config(Section):
    preset: str | None = Field(None, description="Values underneath these: a shipped preset's name or a YAML file.")
    method: Literal["lora", "full"] = Field("lora", description="Train an adapter, or all weights.")
    model: ModelSection = ModelSection()
    template: TemplateSection = TemplateSection()
    data: DataSection = DataSection()
    lora: LoraSection = LoraSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    generation: GenerationSection = GenerationSection()

    @model_validator(mode="after")
    def _contradictions(self) -> Config:
        """What no single field can see. One message for each, joined by a line break."""
        found = []
        if self.training.bf16 and self.training.fp16:
            found.append(_("training.bf16 and training.fp16 are both on. Choose one."))
        if self.data.test and self.data.test_ratio:
            found.append(_("data.test and data.test_ratio are both set. Give a file or a share."))
        if self.data.validation and self.data.validation_ratio:
            found.append(_("data.validation and data.validation_ratio are both set. Give a file or a share."))
        if self.data.test_ratio + self.data.validation_ratio >= 1:
            found.append(_("data.test_ratio and data.validation_ratio leave nothing to train."))
        if self.data.answer_template and not self.data.prompt_template:
            found.append(_("data.answer_template needs data.prompt_template beside it."))
        if found:
            raise ValueError("\n".join(found))
        return self
