"""`aha` beside a CPU build of vLLM whose weights can be replaced.

That build packs linear layers' weights when it has read them, and cannot read others into them
after that; a policy in training is read anew every step. Here they stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
import vllm.model_executor.layers.utils as layers


def leave_unpacked(layer: Any, remove_weight: bool) -> None:
    layer.cpu_linear = torch.nn.functional.linear


if __name__ == "__main__":
    from aha.cli.main import main

    if not torch.cuda.is_available():
        layers.dispatch_cpu_unquantized_gemm = leave_unpacked
    main()
