#!/bin/sh
# one-object.sh - make a static library of one object whose hidden names nobody outside can see or clash with.
# usage: one-object.sh OUTPUT COMPILER... -- ARCHIVE...
set -eu
output=$1
shift
compiler=
while [ "$1" != -- ]; do
    compiler="$compiler $1"
    shift
done
shift
object=${output%.a}-one.o
rm -f "$output" "$object"
# shellcheck disable=SC2086 # the compiler may be several words
$compiler -nostdlib -no-pie -r -o "$object" -Wl,--whole-archive "$@" -Wl,--no-whole-archive
objcopy --localize-hidden "$object"
ar rcs "$output" "$object"
rm -f "$object"
