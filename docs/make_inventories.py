"""Write small inventories of other libraries, with the names that our signatures mention.

    python docs/make_inventories.py

Sphinx reports a name that is missing here when the site is built with ``-W``: add a line, run this
again. A name stands under the module that defines it, as autodoc sees it, and leads to the page of
the public one.
"""

import zlib
from pathlib import Path

INVENTORIES = {
    "gymnasium": {
        "gymnasium.core.Env": "api/env/#gymnasium.Env",
        "gymnasium.spaces.box.Box": "api/spaces/fundamental/#gymnasium.spaces.Box",
        "gymnasium.spaces.space.Space": "api/spaces/#gymnasium.spaces.Space",
        "gymnasium.vector.vector_env.AutoresetMode": "api/vector/",
        "gymnasium.vector.vector_env.VectorEnv": "api/vector/#gymnasium.vector.VectorEnv",
    },
    "jaxtyping": {
        "jaxtyping.Bool": "api/array/",
        "jaxtyping.Float": "api/array/",
        "jaxtyping.Int": "api/array/",
    },
    "mujoco": {"mujoco._structs.MjModel": "APIreference/APItypes.html#mjmodel"},
    "numpy": {
        # inside jaxtyping's annotations
        "ndarray": "reference/generated/numpy.ndarray.html#numpy.ndarray",
        **{
            f"numpy.{name}": f"reference/generated/numpy.{name}.html#numpy.{name}"
            for name in ("dtype", "ndarray")
        },
        **{
            f"numpy.{name}": f"reference/arrays.scalars.html#numpy.{name}"
            for name in ("bool", "float32", "float64", "floating", "int64", "integer", "object_")
        },
        "numpy.random._generator.Generator": "reference/random/generator.html"
        "#numpy.random.Generator",
    },
    "tianshou": {
        f"tianshou.{module}.{name}": f"03_api/{module.replace('.', '/')}.html"
        f"#tianshou.{module}.{name}"
        for module, name in (
            ("algorithm.algorithm_base", "Algorithm"),
            ("algorithm.algorithm_base", "OffPolicyAlgorithm"),
            ("algorithm.algorithm_base", "Policy"),
            ("algorithm.modelfree.sac", "Alpha"),
            ("algorithm.modelfree.sac", "SAC"),
            ("algorithm.modelfree.sac", "SACPolicy"),
            ("algorithm.modelfree.td3", "TD3"),
            ("algorithm.optim", "OptimizerFactory"),
            ("data.buffer.buffer_base", "ReplayBuffer"),
        )
    },
    "torch": {
        "Tensor": "tensors.html#torch.Tensor",  # inside jaxtyping's annotations
        "torch.Tensor": "tensors.html#torch.Tensor",
        "torch._C.Generator": "generated/torch.Generator.html#torch.Generator",
        "torch.device": "tensor_attributes.html#torch.device",
        "torch.dtype": "tensor_attributes.html#torch.dtype",
        "torch.nn.modules.module.Module": "generated/torch.nn.Module.html#torch.nn.Module",
    },
}
"""Each library's classes, and where they are documented, below the address in ``conf.py``."""


def inventory(library: str, places: dict[str, str]) -> bytes:
    """The file of one library, version 2 of Sphinx's format."""
    head = f"# Sphinx inventory version 2\n# Project: {library}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    lines = "".join(f"{name} py:class 1 {place} -\n" for name, place in sorted(places.items()))
    return head.encode() + zlib.compress(lines.encode(), 9)


if __name__ == "__main__":
    for library, places in INVENTORIES.items():
        path = Path(__file__).parent / "inventories" / f"{library}.inv"
        path.write_bytes(inventory(library, places))
