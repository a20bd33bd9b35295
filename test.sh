#!/bin/sh
# test.sh: set nibble up, build it, run every test.
#
# Usage: ./test.sh [CTEST ARGUMENTS]      as ./test.sh -R quantize, or ./test.sh -L long for those that take minutes
set -eu
cd "$(dirname "$0")"
case ${1:-} in
-h | --help)
    sed -n '2,4s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

scripts/setup
scripts/install-packages python3 # what test_attack and test_python are written in
grep -qsx ID=ubuntu /etc/os-release || scripts/install-packages chromium # the report is opened in a real browser
[ $# -gt 0 ] || set -- -LE long
cd build
exec ctest --output-on-failure -j "$(nproc)" "$@"
