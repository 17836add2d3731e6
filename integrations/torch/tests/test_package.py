"""The package itself: what it carries, and how it takes a library that is not its own."""

import ctypes
import importlib.util
import pathlib
import re
import runpy
import subprocess
import sys

import pytest
import torch

import dpo_kernels as dk
from dpo_kernels import _ffi, _structs

FOLDER = pathlib.Path(__file__).resolve().parents[1]


def test_the_structs_are_the_headers(tmp_path):
    """The header as tools/structs.py reads it, beside the file that is committed; and one that differs is told."""
    specification = importlib.util.spec_from_file_location("structs", FOLDER / "tools" / "structs.py")
    structs = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(structs)
    header = structs.HEADER.read_text()
    made = structs.Header(header).python()
    assert made == structs.OUTPUT.read_text()
    changed = header.replace("    float ld_alpha;", "    double ld_alpha;")
    assert changed != header and structs.Header(changed).python() != made


def test_the_structs_have_the_compilers_sizes(tmp_path):
    names = [name for name, kind in vars(_structs).items() if name.startswith("dpo_") and isinstance(kind, type)]
    lines = "".join(f'printf("{name} %zu\\n", sizeof({name}));' for name in names)
    source = tmp_path / "sizes.c"
    source.write_text(f"#include <dpo_kernels.h>\n#include <stdio.h>\nint main(void) {{ {lines} return 0; }}\n")
    include = FOLDER.parent / "c" / "include"
    subprocess.run(["cc", str(source), f"-I{include}", "-o", str(tmp_path / "sizes")], check=True)
    said = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout
    sizes = {line.split()[0]: int(line.split()[1]) for line in said.splitlines()}
    assert len(sizes) > 12
    assert sizes == {name: ctypes.sizeof(getattr(_structs, name)) for name in names}


def library_of(tmp_path, source):
    (tmp_path / "library.c").write_text(source)
    path = tmp_path / "libdpo_kernels_c.so"
    subprocess.run(["cc", "-shared", "-fPIC", str(tmp_path / "library.c"), "-o", str(path)], check=True)
    return path


def test_a_library_that_is_not_ours_is_an_import_error(tmp_path):
    with pytest.raises(ImportError, match="expected the C library of dpo-kernels, found none that loads"):
        _ffi.load(tmp_path / "libdpo_kernels_c.so")
    with pytest.raises(ImportError, match="found none that loads.*dpo_"):
        _ffi.load(library_of(tmp_path, "int dpo_version(void) { return 100; }"))
    functions = "".join(f"int {name}(void) {{ return 0; }}\n" for name in _structs.FUNCTIONS if name != "dpo_version")
    (tmp_path / "older").mkdir()
    with pytest.raises(ImportError, match="expected version 100 of dpo-kernels, found 99"):
        _ffi.load(library_of(tmp_path / "older", functions + "int dpo_version(void) { return 99; }"))
    functions = functions.replace(
        "int dpo_last_error(void) { return 0; }", 'const char *dpo_last_error(void) { return ""; }'
    )
    (tmp_path / "other").mkdir()
    with pytest.raises(ImportError, match="found one that answers"):
        _ffi.load(library_of(tmp_path / "other", functions + "int dpo_version(void) { return 100; }"))


def test_import_takes_nothing_beside_pytorch():
    """In particular none of TRL, transformers and numpy's own, which only dpo_kernels.trl needs."""
    code = "import sys, dpo_kernels; print(sorted({'trl', 'transformers', 'peft', 'datasets'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[]"


def test_what_is_exported_is_documented():
    assert set(dk.__all__) <= set(dir(dk))
    for name in dk.__all__:
        assert name == "IGNORE_INDEX" or getattr(dk, name).__doc__, name
    assert (pathlib.Path(dk.__file__).parent / "py.typed").exists()


def test_cuda_is_built_says_what_the_library_says():
    assert isinstance(dk.cuda_is_built(), bool)
    if not dk.cuda_is_built() and torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="built without"):
            dk.dpo_loss(
                torch.zeros(2, 2, 3).cuda(),
                torch.ones(2, 2).long().cuda(),
                torch.zeros(2).cuda(),
                label_alignment="aligned",
            )


# As cargo says it of a build that has no NVRTC, and otherwise names what it built.
CARGO = """#!/bin/sh
echo "$@" >>"$CALLS"
case "$*" in
*--no-default-features*) echo '{"filenames":["/built/libdpo_kernels_c.so"]}' ;;
*) echo "error: $SAID" >&2 && exit 101 ;;
esac
"""
NO_NVRTC = "NVRTC (libnvrtc.so), which compiles the CUDA kernels of dpo-kernels, was not found. Searched:"


def build_library(tmp_path, monkeypatch, said, cuda):
    """What setup.py builds where cargo cannot build the kernels and says so, and how it called cargo."""
    cargo, calls = tmp_path / "cargo", tmp_path / "calls"
    cargo.write_text(CARGO)
    cargo.chmod(0o755)
    for name, value in (("CARGO", cargo), ("CALLS", calls), ("SAID", said)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("DPO_KERNELS_CUDA", raising=False)
    if cuda is not None:
        monkeypatch.setenv("DPO_KERNELS_CUDA", cuda)
    try:
        return runpy.run_path(str(FOLDER / "setup.py"))["build_library"](), calls.read_text().splitlines()
    except SystemExit as error:
        return str(error), calls.read_text().splitlines() if calls.exists() else []


def test_without_nvrtc_the_wheel_is_for_the_cpu_and_says_so(tmp_path, monkeypatch, capfd):
    built, calls = build_library(tmp_path, monkeypatch, NO_NVRTC, None)
    assert built == "/built/libdpo_kernels_c.so" and len(calls) == 2
    assert "--no-default-features" not in calls[0] and "--no-default-features" in calls[1]
    assert "NVRTC was not found, so the wheel is for the CPU alone" in capfd.readouterr().err
    # The message is the build script's own.
    assert NO_NVRTC.removesuffix(" Searched:") in (FOLDER.parents[1] / "build" / "nvrtc.rs").read_text()


def test_another_failure_and_kernels_that_were_asked_for_stop_the_build(tmp_path, monkeypatch):
    for said, cuda in (("a syntax error", None), (NO_NVRTC, "1")):
        (tmp_path / "calls").unlink(missing_ok=True)
        built, calls = build_library(tmp_path, monkeypatch, said, cuda)
        assert "cargo could not build the C library" in built and len(calls) == 1
    (tmp_path / "calls").unlink()
    built, calls = build_library(tmp_path, monkeypatch, NO_NVRTC, "0")
    assert built == "/built/libdpo_kernels_c.so" and len(calls) == 1
    assert "expected 0 or 1, found 'yes'" in build_library(tmp_path, monkeypatch, NO_NVRTC, "yes")[0]


def python_blocks(path):
    """The Python in a README."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize(
    "readme", [FOLDER / "README.md", FOLDER.parents[1] / "README.md"], ids=["package", "repository"]
)
def test_the_readmes_lines_give_the_readmes_numbers(readme):
    block = next(block for block in python_blocks(readme) if "print(" in block)
    said = subprocess.run([sys.executable, "-c", block], check=True, capture_output=True, text=True).stdout
    assert said.strip() == block.splitlines()[-1].removeprefix("# ")


def test_every_line_of_the_readmes_is_python():
    for block in python_blocks(FOLDER / "README.md"):
        compile(block, "README.md", "exec")


@pytest.mark.parametrize("used", [False, True])
def test_a_fork_computes_or_says_why_not(used):
    """A process that only imported the package can be forked; one that computed has threads, which do not pass to a fork."""
    script = f"""
import os, torch, dpo_kernels as dk
def loss():
    labels = torch.ones(2, 64, dtype=torch.long)
    return dk.dpo_loss(torch.zeros(2, 64, 8000), labels, torch.zeros(2), label_alignment="aligned").loss
torch.set_num_threads(1)
if {used}: loss()
child = os.fork()
if child == 0:
    try:
        loss()
        os._exit(0)
    except RuntimeError as error:
        os._exit(3 if "found a fork of it" in str(error) else 4)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], timeout=120)
    assert done.returncode == (3 if used else 0)
