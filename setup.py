"""Build the C extension; everything else about the package is in pyproject.toml."""

import sysconfig

from setuptools import setup

# One wheel for CPython 3.10 and later; free-threaded builds have no stable ABI to build for.
stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cffi_modules=["cext/build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if stable_abi else {},
)
