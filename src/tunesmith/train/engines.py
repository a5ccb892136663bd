"""What carries a step over several processes: copies (DDP), DeepSpeed's ZeRO, or shards (FSDP2), behind one face.

The loop hands every engine the same losses; averaging, clipping and stepping are the engine's. Knows neither rows nor
files: whole tensors go out for a checkpoint and come back from one.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tunesmith.train.loss import Trainee, causal_model
from tunesmith.train.optim import make_optimizer

if TYPE_CHECKING:
    from tunesmith.config.schema import TrainingSection

Tensors = dict[str, Tensor]
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, of each parameter


class Copies:
    """Every process holds everything: one process alone, or several whose gradients DDP averages."""

    def __init__(self, accelerator: Accelerator, trainee: Trainee, section: TrainingSection) -> None:
        self.accelerator, self.trainee = accelerator, trainee
        with warnings.catch_warnings():  # torch is about to rename broadcast_buffers, which accelerate passes on
            warnings.simplefilter("ignore", FutureWarning)
            self.model, self.optimizer = accelerator.prepare(trainee, make_optimizer(trainee.model, section))

    @property
    def name(self) -> str:
        return "ddp" if isinstance(self.model, nn.parallel.DistributedDataParallel) else "alone"

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def part(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of one of a step's batches: gradients travel with the last one alone."""
        return torch.enable_grad() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def norm(self, limit: float) -> float:
        """Of the gradient over all processes; it is clipped to `limit`, by the step at the latest."""
        return float(self.accelerator.clip_grad_norm_(self.trainee.model.parameters(), limit))

    def step(self) -> None:
        self.optimizer.step()
        self.forget()

    def forget(self) -> None:
        """Throws the gradients away."""
        self.optimizer.zero_grad()

    def weights(self) -> Tensors | None:
        """What a checkpoint needs of the model, whole; None where the model itself has it. All processes ask, the first
        gets it."""
        return None

    def moments(self) -> Tensors:
        """The optimizer's state as `parameter::key`, whole. All processes ask, the first gets it."""
        inner = self.optimizer.optimizer.state
        return self._whole(
            (f"{name}::{key}", torch.as_tensor(value))
            for name, parameter in trained(self.trainee)
            for key, value in inner.get(parameter, {}).items()
        )

    def _whole(self, tensors: Iterable[tuple[str, Tensor]]) -> Tensors:
        """Each put together by all processes, and kept by the first."""
        found: Tensors = {}
        for name, value in tensors:
            whole: Any = value.full_tensor() if hasattr(value, "full_tensor") else value
            if self.accelerator.is_main_process:
                found[name] = _copy(whole)
        return found

    def restore(self, moments: Mapping[str, Tensor]) -> None:
        """Puts back what `moments` gave, in whatever world it was given."""
        inner = self.optimizer.optimizer.state
        for name, parameter in trained(self.trainee):
            found = {
                key.rpartition("::")[2]: value for key, value in moments.items() if key.rpartition("::")[0] == name
            }
            inner[parameter] = {key: _like(parameter, value) if value.ndim else value for key, value in found.items()}


class Shards(Copies):
    """FSDP2: weights, gradients and optimizer state are spread over the processes; a layer is whole while it computes.

    torch's own `fully_shard`, which runs on every device; accelerate's plugin runs DDP on a CPU without a word.
    """

    name = "fsdp"

    def __init__(self, accelerator: Accelerator, trainee: Trainee, section: TrainingSection) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        again = section.fsdp == "full_shard"
        for layer in layers(trainee):
            fully_shard(layer, mesh=mesh, reshard_after_forward=again)
        fully_shard(trainee, mesh=mesh)
        self.accelerator, self.trainee = accelerator, trainee
        self.model: Any = trainee
        optimizer = make_optimizer(trainee.model, section)  # over the shards: they exist only now
        self.optimizer = accelerator.prepare(optimizer)

    @contextmanager
    def part(self, last: bool) -> Iterator[None]:
        self.model.set_requires_gradient_sync(last)
        yield

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def norm(self, limit: float) -> float:
        norm: Any = nn.utils.clip_grad_norm_([p for _name, p in trained(self.trainee)], limit)
        return float(norm.full_tensor())

    def weights(self) -> Tensors:
        self._spread()
        return self._whole(_kept(self.trainee))

    def moments(self) -> Tensors:
        self._spread()
        return super().moments()

    def _spread(self) -> None:
        """Behind an evaluation the outermost weights are still whole, and not those that the optimizer knows."""
        from torch.distributed.fsdp import FSDPModule

        for module in self.trainee.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


class Zero:
    """DeepSpeed's ZeRO, stages 1 to 3, by its own settings."""

    def __init__(
        self, accelerator: Accelerator, trainee: Trainee, section: TrainingSection, settings: dict[str, Any]
    ) -> None:
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        self.accelerator, self.trainee = accelerator, trainee
        self.stage = settings.get("zero_optimization", {}).get("stage", 0)
        self.model, self.optimizer, *_rest = deepspeed.initialize(
            model=trainee,
            optimizer=make_optimizer(trainee.model, section),
            config=settings,
            dist_init_required=False,
        )

    @property
    def name(self) -> str:
        return f"zero{self.model.zero_optimization_stage()}"

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @contextmanager
    def part(self, last: bool) -> Iterator[None]:
        self.model.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        self.model.backward(loss, scale_wrt_gas=False)

    def norm(self, limit: float) -> float:
        """Clipping is in DeepSpeed's own step, by the same limit (`gradient_clipping`)."""
        if self.stage == 3:
            norms = [float(norm) for norm in self.optimizer._get_norm_groups()]
            norm = math.hypot(*norms) if min(norms) >= 0 else -1.0
        else:
            norm = float(self.optimizer.scaled_global_norm())
        found = norm / self.optimizer.loss_scale
        return found if found >= 0 else math.nan  # it says -1 for what is no number

    def step(self) -> None:
        self.model.step()

    def forget(self) -> None:
        self.optimizer.zero_grad()

    def weights(self) -> Tensors:
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        found: Tensors = {}
        for name, value in _kept(self.trainee):
            whole = safe_get_full_fp32_param(value) if value.requires_grad else None
            spread = self.stage == 3 and whole is None and isinstance(value, nn.Parameter)
            with deepspeed.zero.GatheredParameters([value], enabled=spread):
                if self.accelerator.is_main_process:
                    found[name] = _copy(value if whole is None else whole)
        return found

    def moments(self) -> Tensors:
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
        steps = [state["step"] for state in self.optimizer.optimizer.state.values() if state]
        found = {}
        for name, parameter in trained(self.trainee) if steps else []:
            for key in MOMENTS:
                whole = safe_get_full_optimizer_state(parameter, key)
                if self.accelerator.is_main_process:
                    found[f"{name}::{key}"] = _copy(whole)
            found[f"{name}::step"] = _copy(torch.as_tensor(steps[0]))
        return found

    def _link(self) -> None:
        """Lets weights find their moments: stages 1 and 2 do so when one group has stepped and the others have none."""
        if self.stage in (1, 2):
            self.optimizer._hp_optimizer_states_linked = False
            self.optimizer._lazy_init_hp_params_optimizer_state()

    @property
    def flat(self) -> list[Tensor]:
        """This process's share of what is trained, in float32, as the optimizer has it."""
        if self.stage == 3:
            return list(self.optimizer.fp32_partitioned_groups_flat)
        return [flat for group in self.optimizer.optimizer.param_groups for flat in group["params"]]

    def restore(self, moments: Mapping[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        step = next((value for key, value in moments.items() if key.endswith("::step")), torch.zeros(()))
        for flat in self.flat:
            empty = {key: torch.zeros_like(flat) for key in MOMENTS}
            self.optimizer.optimizer.state[flat] = empty | {"step": step.clone()}
        self._link()
        for name, parameter in trained(self.trainee):
            for key in MOMENTS:
                value = moments[f"{name}::{key}"].to(self.accelerator.device)
                safe_set_full_optimizer_state(parameter, value, key)


Engine = Copies | Shards | Zero


def make_engine(
    accelerator: Accelerator, trainee: Trainee, section: TrainingSection, deepspeed: dict[str, Any] | None = None
) -> Engine:
    """The engine that the settings name. `deepspeed`: DeepSpeed's settings, filled in."""
    if deepspeed is not None:
        return Zero(accelerator, trainee, section, deepspeed)
    return (Shards if section.fsdp else Copies)(accelerator, trainee, section)


def trained(trainee: Trainee) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in trainee.model.named_parameters() if p.requires_grad]


def layers(trainee: Trainee) -> list[nn.Module]:
    """The decoder's layers, by the class that the family names as never to be split."""
    kinds = set(causal_model(trainee.model)._no_split_modules or ())
    return [module for module in trainee.modules() if type(module).__name__ in kinds]


def _kept(trainee: Trainee) -> list[tuple[str, Tensor]]:
    """What a checkpoint holds: an adapter's own tensors, or all of them."""
    model: Any = trainee.model
    if hasattr(model, "get_base_model"):
        return list(trained(trainee))
    return list(model.state_dict(keep_vars=True).items())


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()


def _like(parameter: Any, value: Tensor) -> Tensor:
    """`value`, whole, placed and spread as the parameter is."""
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is None:
        return value.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), mesh, parameter.placements)
