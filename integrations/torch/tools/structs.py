"""Makes python/dpo_kernels/_structs.py from the C header: `python tools/structs.py` writes it, `--check` compares.

The header is the one source of structs, enumerators and signatures; what is here reads the few forms of C that it is
written in, and stops at any other.
"""

import pathlib
import re
import sys

FOLDER = pathlib.Path(__file__).resolve().parent.parent
HEADER = FOLDER.parent / "c" / "include" / "dpo_kernels.h"
OUTPUT = FOLDER / "python" / "dpo_kernels" / "_structs.py"

SCALARS = {
    "void": "None",
    "float": "c_float",
    "double": "c_double",
    "size_t": "c_size_t",
    "int32_t": "c_int32",
    "int64_t": "c_int64",
    "uint32_t": "c_uint32",
}
NUMBER = r"\(?-?(?:0x)?[0-9a-f]+u?(?: << [0-9]+)?\)?"

PREAMBLE = '''"""The C ABI's structs, enumerators and signatures, as tools/structs.py makes them from dpo_kernels.h, which documents
them. Not to be edited."""

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_uint32, c_void_p


class Sized(ctypes.Structure):
    """A struct that starts with its own size, by which the library refuses one that it does not know."""

    def __init__(self, **fields):
        super().__init__(struct_size=ctypes.sizeof(type(self)), **fields)

'''


class Header:
    """What the header declares, in its order."""

    def __init__(self, text):
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        self.defines = re.findall(rf"^#define (DPO_\w+) ({NUMBER})$", text, flags=re.M | re.I)
        text = re.sub(r"^\s*#.*$", "", text, flags=re.M).replace('extern "C" {', "")
        self.enums, self.structs, self.functions, self.opaque = [], [], [], set()
        declaration = re.compile(
            r"typedef enum (?P<enum>\w+) \{(?P<items>.*?)\} \w+;"
            r"|typedef struct (?P<struct>\w+) \{(?P<fields>.*?)\} \w+;"
            r"|typedef struct (?P<opaque>\w+) \w+;"
            r"|(?P<result>[\w ]+?[\s*]+)(?P<function>dpo_\w+)\((?P<parameters>[^)]*)\);",
            flags=re.S,
        )
        rest = declaration.sub(self._declare, text).strip()
        if rest not in ("", "}"):
            raise SystemExit(f"{HEADER}: expected typedefs and functions, found {rest[:200]!r}")

    def _declare(self, match):
        if name := match["enum"]:
            items = re.findall(rf"(\w+) = ({NUMBER})", match["items"], flags=re.I)
            self.enums.append((name, items))
        elif name := match["struct"]:
            fields = [self._variable(field) for field in match["fields"].split(";") if field.strip()]
            self.structs.append((name, fields))
        elif name := match["opaque"]:
            self.opaque.add(name)
        else:
            parameters = [self._variable(p) for p in match["parameters"].split(",") if p.strip() != "void"]
            result = self._type(match["result"])
            self.functions.append((match["function"], result, parameters))
        return ""

    def _variable(self, declaration):
        kind, name, length = re.fullmatch(r"\s*(.*?[\s*])(\w+)(?:\[(\d+)\])?\s*", declaration, flags=re.S).groups()
        kind = self._type(kind)
        return name, f"{kind} * {length}" if length else kind

    def _type(self, kind):
        """The ctypes name of a C type. Pointers to numbers are addresses, of whichever memory the call is about."""
        name, stars = re.fullmatch(r"(?:const )?(?:struct )?(\w+)((?:\s|\*|const)*)", kind.strip()).groups()
        pointers = stars.count("*")
        structs = {struct for struct, _ in self.structs}
        if pointers == 0:
            if name in dict(self.enums):
                return "c_uint32"
            return name if name in structs else SCALARS[name]
        if name == "char":
            return "c_char_p"
        if name in self.opaque:
            return "POINTER(c_void_p)" if pointers == 2 else "c_void_p"
        # A struct without a size is data, in whichever memory the call is about.
        sized = name in structs and dict(self.structs)[name][0][0] == "struct_size"
        return f"POINTER({name})" if sized else "c_void_p"

    def python(self):
        lines = [PREAMBLE]
        lines += [f"{name} = {number(value)}" for name, value in self.defines]
        for name, items in self.enums:
            lines += ["", f"# {name}", *(f"{item} = {number(value)}" for item, value in items)]
        for name, fields in self.structs:
            base = "Sized" if fields[0][0] == "struct_size" else "ctypes.Structure"
            lines += ["", "", f"class {name}({base}):", "    _fields_ = ["]
            # Structs hold the addresses of other structs as of any other memory: absent ones are null.
            lines += [f'        ("{field}", {address(kind)}),' for field, kind in fields]
            lines += ["    ]"]
        lines += ["", "", "# Of each function what it returns and takes.", "FUNCTIONS = {"]
        for name, result, parameters in self.functions:
            kinds = [kind for _, kind in parameters]
            entry = f'    "{name}": ({result}, [{", ".join(kinds)}]),'
            if len(entry) > 110:
                each = "".join(f"            {kind},\n" for kind in kinds)
                entry = f'    "{name}": (\n        {result},\n        [\n{each}        ],\n    ),'
            lines.append(entry)
        return "\n".join([*lines, "}"]) + "\n"


def address(kind):
    return "c_void_p" if kind.startswith("POINTER") else kind


def number(text):
    return (
        text.strip("()").rstrip("u") if text.startswith("(") and "<<" not in text else text.replace("u", "").strip("()")
    )


def main():
    text = Header(HEADER.read_text()).python()
    if "--check" in sys.argv[1:]:
        if OUTPUT.read_text() != text:
            raise SystemExit(f"{OUTPUT} is not what {HEADER} makes: python {sys.argv[0]}")
    else:
        OUTPUT.write_text(text)


if __name__ == "__main__":
    main()
