#!/bin/sh
# Public headers are true C11 headers, C++ can include them, and the sections that they cite exist.
# usage: test_headers.sh NIBBLE SOURCE_DIR
set -eu
cd "$2"
grep -ho 'docs/[a-z-]*\.md, "[^"]*"' include/nibble/*.h | sort -u | while read -r cited; do
    file=${cited%%, *} section=$(echo "${cited#*, }" | tr -d '"')
    [ -f "$file" ] || { echo "FAILED: $cited is cited, and there is no $file" && exit 1; }
    grep -qi "^##* .*$section" "$file" || { echo "FAILED: $cited is cited, and $file has no such section" && exit 1; }
done
exec scripts/check-headers
