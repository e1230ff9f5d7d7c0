"""Devices of OpenCL for unify: `unify.device("opencl:0")`."""

from pathlib import Path

import unify

backend = unify.Backend(name="opencl", library=str(Path(__file__).with_name("libunify_opencl.so")))
