"""What every backend must do, seen through the Python API: a file per concept.

    unify test-backend cuda
    pytest --pyargs unify.testing.conformance --unify-device cuda:0

A case checks what can be observed and nothing else, so it runs on any device. It is skipped only where the device's
own capabilities say that something is absent, or its backend's spec says why it cannot be.
"""

CONCEPTS = (
    "device",
    "stream",
    "event",
    "memory",
    "copy",
    "peer",
    "tensor",
    "module",
    "function",
    "launch",
    "graph",
    "error",
    "threads",
    "process",
    "leaks",
    "plugin_abi",
)
