"""The C extensions; everything else stands in pyproject.toml."""

# SPDX-License-Identifier: GPL-3.0-or-later

from setuptools import setup

setup(
    cffi_modules=["mcrd/dataplane/build.py:ffi", "mcrd/traffic/build.py:ffi"],
    # cffi keeps to the stable interface of Python: one wheel is for 3.11 and all later ones.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
