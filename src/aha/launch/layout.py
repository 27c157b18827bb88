"""Who trains where: processes, nodes, strategy, vLLM; and the files that tell accelerate so.

On a CPU the processes talk by gloo. accelerate starts several processes on one machine only for
what it calls a multi-GPU run, so the file says that there too, and `use_cpu` beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aha.types import UserError

# The command line's options take a type from here, and `aha --help` shall not wait for pydantic.
if TYPE_CHECKING:
    from aha.recipe import Recipe

Strategy = Literal["ddp", "zero2", "zero3", "fsdp2"]
VllmMode = Literal["off", "colocate", "server"]

# Names a file: a rank writes its exit code there and ends well, because of a rank that ends
# otherwise accelerate makes a traceback.
EXIT_CODE_FILE = "AHA_EXIT_CODE_FILE"


@dataclass(frozen=True)
class Layout:
    """`processes` train, in all and as many on every node; `head` is where node 0 listens.

    With vLLM in server mode `vllm_gpus` more GPUs of node 0 generate; they train nothing.
    """

    processes: int
    strategy: Strategy = "ddp"
    nodes: int = 1
    node_rank: int = 0
    head: str = "127.0.0.1"
    port: int = 29500
    vllm: VllmMode = "off"
    vllm_gpus: int = 1
    on_cpu: bool = False

    @property
    def processes_here(self) -> int:
        return self.processes // self.nodes

    @property
    def serves_here(self) -> bool:
        """Whether this node runs the vLLM server."""
        return self.vllm == "server" and self.node_rank == 0

    @property
    def gpus_here(self) -> int:
        """How many GPUs this node needs."""
        if self.on_cpu:
            return 0
        return self.processes_here + (self.vllm_gpus if self.serves_here else 0)


def check_together(strategy: Strategy, recipe: Recipe) -> None:
    """Errors: UserError for a recipe's `trl` section that does not go with the strategy."""
    from aha.sections import TrlSection

    section = recipe.trl or TrlSection()
    if section.vllm == "colocate" and strategy == "fsdp2":
        raise UserError(
            "trl.vllm is 'colocate' with --strategy fsdp2; allowed are off and server: sharded "
            "weights would have to be gathered on every GPU beside vLLM's own copy."
        )
    if section.deepspeed is not None and not strategy.startswith("zero"):
        raise UserError(
            f"trl.deepspeed is {section.deepspeed!r} and --strategy is {strategy}; with a "
            "DeepSpeed file allowed are zero2 and zero3."
        )


def check_layout(layout: Layout, gpus: int) -> None:
    """What is impossible, before anything loads; `gpus` are those that this node sees.

    Errors: UserError naming the option and what is allowed.
    """
    if layout.processes % layout.nodes:
        raise UserError(
            f"--processes is {layout.processes} in all; on {layout.nodes} nodes it must be a "
            f"multiple of {layout.nodes}."
        )
    if not 0 <= layout.node_rank < layout.nodes:
        allowed = (
            "it is for --nodes" if layout.nodes == 1 else f"allowed are 0 to {layout.nodes - 1}"
        )
        raise UserError(f"--node-rank is {layout.node_rank} of {layout.nodes} nodes; {allowed}.")
    if layout.nodes > 1 and layout.port == 0:
        raise UserError("--port is 0; several nodes need one that they all know, such as 29500.")
    if layout.vllm != "off" and layout.on_cpu:
        raise UserError(f"--vllm is {layout.vllm!r}; without a GPU allowed is off.")
    if layout.gpus_here > gpus:
        server = f" and {layout.vllm_gpus} for vLLM" if layout.serves_here else ""
        raise UserError(
            f"--processes {layout.processes} needs {layout.processes_here} GPUs{server} on this "
            f"node, which sees {gpus}; lower it, use more --nodes, or --cpu."
        )


def accelerate_config(layout: Layout) -> dict[str, Any]:
    """What `accelerate launch --config_file` reads.

    Under ZeRO it says nothing of DeepSpeed: the recipe's `trl.deepspeed` does. Named in this file
    accelerate would take every stage for 2, and TRL not gather what stage 3 shards.
    """
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "use_cpu": layout.on_cpu,
        # The recipe says the type of products; accelerate is not to add another.
        "mixed_precision": "no",
        "num_processes": layout.processes,
        "num_machines": layout.nodes,
        "machine_rank": layout.node_rank,
        "main_process_ip": layout.head,
        "main_process_port": layout.port,
        "same_network": True,
        "rdzv_backend": "static",
    }
    if layout.strategy == "fsdp2":
        config["distributed_type"] = "FSDP"
        config["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": True,
            "fsdp_cpu_ram_efficient_loading": False,
            "fsdp_state_dict_type": "FULL_STATE_DICT",
        }
    return config


def deepspeed_config(layout: Layout) -> dict[str, Any] | None:
    """DeepSpeed's own file for ZeRO, none for other strategies.

    What is `auto` there transformers fills in. Stage 2 shards gradients and optimizer, stage 3 the
    weights too (Rajbhandari et al. 2020, arXiv:1910.02054).
    """
    if layout.strategy not in ("zero2", "zero3"):
        return None
    zero: dict[str, Any] = {"stage": 2, "overlap_comm": False, "contiguous_gradients": True}
    if layout.strategy == "zero3":
        zero["stage"] = 3
        # Checkpoints must hold whole weights: that is what loads elsewhere.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        # The optimizer is PyTorch's, as in a run on one device.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000,
    }


def visible_gpus() -> int:
    """How many GPUs this process may use."""
    import torch

    return torch.cuda.device_count()
