"""Building on the meta device: the same tensors, no memory, and none of torch's compiler imported."""

import subprocess
import sys

from chiasm.core.registry import families
from chiasm.weights.meta import build_on_meta, shapes_of


def test_same_names_and_shapes_as_a_real_build() -> None:
    for family in families().values():
        config, _ = family.tiny()
        module = build_on_meta(config)
        assert all(tensor.is_meta for tensor in module.state_dict().values())
        assert shapes_of(module) == shapes_of(config.build())


def test_the_compiler_stays_out() -> None:
    code = (
        "import sys; from chiasm.models.clip import PRESETS; from chiasm.weights.meta import build_on_meta\n"
        "build_on_meta(PRESETS['clip_vit_b_32']); build_on_meta(PRESETS['clip_rn50'])\n"
        "print([name for name in sys.modules if name.startswith(('torch._dynamo', 'sympy'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
