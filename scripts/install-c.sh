#!/bin/sh
# Installs the C ABI's header, shared and static library, and a file for pkg-config.
# Usage: [PREFIX=/usr/local] [LIBDIR=$PREFIX/lib] [DESTDIR=] scripts/install-c.sh FOLDER
# FOLDER is where cargo left the libraries, such as target/release. DESTDIR, if any, stands before every path that is written,
# and in none that the installed files name. Called by `make install-c`.
set -eu

[ $# -eq 1 ] || { echo "usage: [PREFIX=] [LIBDIR=] [DESTDIR=] $0 FOLDER" >&2; exit 2; }
built=$1
prefix=${PREFIX:-/usr/local}
libdir=${LIBDIR:-$prefix/lib}
header=$(dirname "$0")/../integrations/c/include/dpo_kernels.h

for path in "$prefix" "$libdir"; do
    case $path in
    /*[!A-Za-z0-9/._+~-]*) echo "$0: expected a path that pkg-config can name, found \"$path\"" >&2; exit 2 ;;
    /*) ;;
    *) echo "$0: expected an absolute path, found \"$path\"" >&2; exit 2 ;;
    esac
done
for library in libdpo_kernels_c.so libdpo_kernels_c.a; do
    [ -f "$built/$library" ] || { echo "$0: $built has no $library: cargo build --release -p dpo-kernels-c" >&2; exit 1; }
done

# major * 10000 + minor * 100 + patch
number=$(sed -n 's/^#define DPO_VERSION \([0-9][0-9]*\)$/\1/p' "$header")
version=$((number / 10000)).$((number / 100 % 100)).$((number % 100))
# The name that programs ask for when they start.
soname=$(readelf -d "$built/libdpo_kernels_c.so" | sed -n 's/.*(SONAME).*\[\(.*\)\]$/\1/p')
[ -n "$soname" ] || { echo "$0: $built/libdpo_kernels_c.so has no SONAME" >&2; exit 1; }

lib=${DESTDIR:-}$libdir
include=${DESTDIR:-}$prefix/include
mkdir -p "$include" "$lib/pkgconfig"
install -m 644 "$header" "$include/dpo_kernels.h"

# What a linker needs stays: the dynamic symbols of the one, all symbols of the other.
shared=$lib/libdpo_kernels_c.so.$version
install -m 755 "$built/libdpo_kernels_c.so" "$shared"
"${STRIP:-strip}" --strip-unneeded "$shared"
ln -sf "libdpo_kernels_c.so.$version" "$lib/$soname"
ln -sf "$soname" "$lib/libdpo_kernels_c.so"
install -m 644 "$built/libdpo_kernels_c.a" "$lib/libdpo_kernels_c.a"
"${STRIP:-strip}" --strip-debug "$lib/libdpo_kernels_c.a"

# Whoever moves the folder has one line to change.
case $libdir in
"$prefix"/*) named_libdir="\${prefix}${libdir#"$prefix"}" ;;
*) named_libdir=$libdir ;;
esac
# Libs.private is what `rustc --print native-static-libs` says of Rust's standard library; there is nothing else to link.
cat >"$lib/pkgconfig/dpo-kernels-c.pc" <<END
prefix=$prefix
libdir=$named_libdir
includedir=\${prefix}/include

Name: dpo-kernels-c
Description: Direct Preference Optimization losses and gradients on CPUs and NVIDIA GPUs
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -ldpo_kernels_c
Libs.private: -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc
END
chmod 644 "$lib/pkgconfig/dpo-kernels-c.pc"
echo "installed dpo-kernels-c $version in $prefix${DESTDIR:+, under $DESTDIR}"
