"""Builds the C library by cargo and puts it into the wheel, which is of no Python version: ctypes calls it.

DPO_KERNELS_CUDA=1 asks for the CUDA kernels and fails without NVRTC, DPO_KERNELS_CUDA=0 leaves them out; unless it is set,
they are there if NVRTC is found, as the main crate finds it.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

LIBRARY = "libdpo_kernels_c.so"
CRATE = pathlib.Path(__file__).resolve().parent.parent / "c"
NO_NVRTC = "NVRTC (libnvrtc.so), which compiles the CUDA kernels of dpo-kernels, was not found"


def cargo(*arguments):
    """Runs cargo in the crate of the C library; what it said, and whether it went well."""
    command = [os.environ.get("CARGO", "cargo"), *arguments]
    try:
        done = subprocess.run(command, cwd=CRATE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise SystemExit(f"dpo_kernels: expected cargo, to build the C library with, found none ({error})") from error
    sys.stderr.write(done.stderr)
    return done


def build_library():
    """The path of the library, with the CUDA kernels where that is asked for or possible."""
    build = ("build", "--release", "-p", "dpo-kernels-c", "--message-format=json")
    wanted = os.environ.get("DPO_KERNELS_CUDA")
    if wanted not in (None, "0", "1"):
        raise SystemExit(f"DPO_KERNELS_CUDA: expected 0 or 1, found {wanted!r}")
    done = cargo(*build, *(["--no-default-features"] if wanted == "0" else []))
    if done.returncode != 0 and wanted is None and NO_NVRTC in done.stderr:
        print(
            "dpo_kernels: NVRTC was not found, so the wheel is for the CPU alone; the message above says where it was looked "
            "for, and DPO_KERNELS_CUDA=1 makes its absence an error",
            file=sys.stderr,
        )
        done = cargo(*build, "--no-default-features")
    if done.returncode != 0:
        raise SystemExit("dpo_kernels: cargo could not build the C library; see above")
    return re.findall(rf'"([^"]*/{re.escape(LIBRARY)})"', done.stdout)[-1]


class BuildWithLibrary(build_py):
    """The Python files, and the library beside them."""

    def run(self):
        super().run()
        folder = pathlib.Path(self.build_lib) / "dpo_kernels"
        # An editable install imports the sources where they are.
        if self.editable_mode:
            folder = pathlib.Path(__file__).resolve().parent / "python" / "dpo_kernels"
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / LIBRARY
        shutil.copyfile(build_library(), library)
        if strip := shutil.which(os.environ.get("STRIP", "strip")):
            subprocess.run([strip, "--strip-unneeded", str(library)], check=True)


class WheelOfAnyPython(bdist_wheel):
    """py3-none, for machines whose C library is as old as the symbols that the library asks for."""

    def get_tag(self):
        library = pathlib.Path(self.bdist_dir) / "dpo_kernels" / LIBRARY
        machine = super().get_tag()[2].removeprefix("linux_")
        needed = max(int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes()))
        return "py3", "none", f"manylinux_2_{needed}_{machine}"


class WithLibrary(Distribution):
    """A distribution with something compiled in it, which setuptools does not know of."""

    def has_ext_modules(self):
        return True


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": WheelOfAnyPython}, distclass=WithLibrary)
