"""What every backend must do, seen through the Python API: a file per concept.

    pytest --pyargs unify.testing.conformance --unify-device cuda:0

A case checks what can be observed and nothing else, so it runs on any device. It is skipped only where the device's
own capabilities say that something is absent.
"""

CONCEPTS = (
    "device",
    "stream",
    "event",
    "memory",
    "copy",
    "tensor",
    "module",
    "launch",
    "graph",
    "error",
    "threads",
    "plugin_abi",
)
