#!/usr/bin/env bash
#
# setup.sh - have what a command needs: look what is missing, and install just that with apt-get.
#
# tools/demo, tools/test and .ci/run begin with it, so that each of them works on a bare Debian or Ubuntu.  It looks for
# the thing itself (a command, a library's header), not for a package's name: a machine that has all of it is left as it
# is, of whatever kind it be, and nobody is asked for a password.
#
# usage: setup.sh build|demo|test|python|ci|sanitize...      (the compiler is $CC, else cc)
set -euo pipefail

missing=()

# need_command COMMAND PACKAGE
need_command() {
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}

# need_header HEADER PACKAGE: asks the compiler, who knows where it looks.
need_header() {
    local cc=${CC:-cc}
    if command -v "${cc%% *}" >/dev/null 2>&1; then
        echo "#include <$1>" | $cc -E -x c - >/dev/null 2>&1 && return
    elif [ -e "/usr/include/$1" ]; then
        return
    fi
    missing+=("$2")
}

# need_module NAME PACKAGE: asks pkg-config.
need_module() {
    pkg-config --exists "$1" 2>/dev/null || missing+=("$2")
}

# need_python MODULE PACKAGE: in the first python3 of PATH or in Debian's own, which the package is for.
need_python() {
    python3 -c "import $1" >/dev/null 2>&1 || /usr/bin/python3 -c "import $1" >/dev/null 2>&1 || missing+=("$2")
}

# need_sanitizers: gcc brings its own; clang's stand in a package that carries clang's version in its name.
need_sanitizers() {
    local cc=${CC:-cc}
    if ${cc} --version 2>/dev/null | grep -q clang &&
        [ ! -e "$($cc -print-file-name=libclang_rt.asan-x86_64.a)" ] &&
        [ ! -e "$($cc -print-file-name=libclang_rt.asan.a)" ] &&
        [ ! -e "$($cc -print-file-name=libclang_rt.asan-aarch64.a)" ]; then
        missing+=("libclang-rt-$($cc -dumpversion | cut -d. -f1)-dev")
    fi
}

for purpose in "$@"; do
    case $purpose in
    build)
        need_command cc gcc
        need_header stdio.h libc6-dev
        need_command pkg-config pkg-config
        need_command python3 python3
        need_command meson meson
        need_command ninja ninja-build
        need_header lmdb.h liblmdb-dev
        need_header hiredis/hiredis.h libhiredis-dev
        need_header uv.h libuv1-dev
        need_header sodium.h libsodium-dev
        ;;
    demo)
        need_header sqlite3.h libsqlite3-dev
        need_command redis-server redis-server
        need_command xz xz-utils
        ;;
    test)
        need_header sqlite3.h libsqlite3-dev
        need_command redis-server redis-server
        need_command nm binutils
        need_command spin spin
        need_module lua5.1 liblua5.1-0-dev
        need_python nacl python3-nacl
        ;;
    python) # Debian's own, which its headers and its venv go with
        for python in /usr/bin/python3 python3; do
            command -v "$python" >/dev/null 2>&1 && break
        done
        "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
            missing+=(python3-dev)
        "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
        command -v postgres >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 ||
            missing+=(postgresql)
        need_command redis-server redis-server
        ;;
    ci)
        command -v clang-14 >/dev/null 2>&1 || command -v clang >/dev/null 2>&1 || missing+=(clang)
        need_command cppcheck cppcheck
        need_command xz xz-utils
        ;;
    sanitize) need_sanitizers ;;
    *)
        echo "setup.sh: $purpose: build, demo, test, python, ci or sanitize" >&2
        exit 2
        ;;
    esac
done

[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup.sh: missing, by their Debian names: ${missing[*]}" >&2
    echo "setup.sh: there is no apt-get here; please install them in this system's own way and run this again" >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "setup.sh: missing: ${missing[*]}" >&2
        echo "setup.sh: to install them takes root, or sudo; as root:  apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
echo "setup.sh: installing ${missing[*]}" >&2
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The lists may be old or absent: try, then fetch them and try again.
if ! install </dev/null >"$log" 2>&1; then
    if ! { "${as_root[@]}" apt-get update && install; } </dev/null >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "setup.sh: apt-get could not install ${missing[*]}; its words are above" >&2
        exit 1
    fi
fi
