#!/bin/sh
# Public headers are true C11 headers, and C++ can include them.
exec "$2/scripts/check-headers"
