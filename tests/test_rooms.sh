#!/bin/sh
# Rooms look down only, and no files call each other in a circle.   usage: test_rooms.sh NIBBLE SOURCE_DIR
exec "$2/scripts/check-rooms" "$(dirname "$1")"
