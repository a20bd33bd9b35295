#!/bin/sh
# Ranks that fail: one line from one of them, an end within seconds, and nothing that --resume does not go on from.
# Usage: test_ranks_fail.sh NIBBLE SOURCE_DIR
# shellcheck disable=SC2016 # shells of ranks expand what stands in single quotes
set -eu
[ -n "${NIBBLE_TEST_PORTS-}" ] || exec "$(dirname "$1")/with_ports" 16 sh "$0" "$@"
nibble=$1
source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# shellcheck source=tests/ranks.sh
. "$source/tests/ranks.sh"
put_files
put_hit
awake nvfp4

fail() {
    echo "test_ranks_fail: $1" >&2
    head -n 5 err.* >&2 || true
    exit 1
}

# one_line WHAT PATTERN STATUS: all ranks of the last run ended with STATUS, and one line says why.
one_line() {
    cat err.* > all.txt
    [ "$(wc -l < all.txt)" = 1 ] || fail "$1: $(wc -l < all.txt) lines on stderr, expected 1"
    grep -qE "$2" all.txt || fail "$1: expected $2"
    for got in $status $others; do
        [ "$got" = "$3" ] || fail "$1: exit status $got, expected $3"
    done
}

# half an environment
status=0 others=
RANK=0 $limited "$nibble" train run.yaml > out.txt 2> err.0 || status=$?
one_line "RANK alone" "^nibble: environment: WORLD_SIZE is not set" 2

# a name that nobody knows is said before the wait for it
status=0
RANK=1 WORLD_SIZE=2 MASTER_ADDR=nowhere.invalid MASTER_PORT=29500 NIBBLE_PATIENCE=1 $limited "$nibble" train run.yaml \
    > out.txt 2> err.0 || status=$?
[ "$status" = 1 ] || fail "a name that nobody knows: exit status $status"
sed -n 1p err.0 | grep -q '^nibble: warning: rank 1: the address of rank 0, nowhere.invalid, is not found' ||
    fail "a name that nobody knows is not told at once"
sed -n 2p err.0 | grep -q '^nibble: tcp: rank 1 of 2 at nowhere.invalid .* is not found .* within 1 s' ||
    fail "a name that nobody knows"

over_tcp 3 "$nibble" train run.yaml || true
one_line "4 micro-batches for 3 ranks" "^nibble: rank 0: accumulation: 4 micro-batches .* 3 ranks; .*hint: accumulation: 6" 2
[ ! -d out ] || fail "a refused run left a folder"

# one that reads another run file, one that lacks a file, one whose seed is not that of the others
sed 's/lr: 3e-3/lr: 2e-3/' run.yaml > other.yaml
over_tcp 2 sh -c 'if [ $RANK = 1 ]; then set -- other.yaml; else set -- run.yaml; fi; exec "$0" train $1' "$nibble" || true
one_line "another run file" "^nibble: rank 0: rank 1 of 2 has another run file than rank 0" 2
over_tcp 4 sh -c 'if [ $RANK = 2 ]; then set -- gone.yaml; else set -- run.yaml; fi; exec "$0" train $1' "$nibble" || true
one_line "a file that rank 2 lacks" "^nibble: rank 2: gone.yaml" 2

# the disk of rank 0 says no: all end
mkdir out
: > out/checkpoints
over_tcp 2 "$nibble" train run.yaml || true
one_line "no checkpoint folder" "^nibble: rank 0: .*checkpoints" 1
rm -r out

# a signal to one rank stops all, with a checkpoint
$limited "$nibble" train run.yaml --quiet --set out=one > out.txt 2> err.0
sed 's/^steps:.*/steps: 1000000/; s/^checkpoint:.*/checkpoint: {every: 4, keep: 2}/' run.yaml > long.yaml
over_tcp 2 sh hit.sh 1 TERM "$nibble" train long.yaml || true
one_line "SIGTERM" "^nibble: rank 0: stopped after step [0-9]* of 1000000, checkpoint written" 1
rm -r out

# a rank that dies
over_tcp 2 sh hit.sh 1 KILL "$nibble" train long.yaml || true
[ "$status" = 1 ] || fail "rank 0 ended with $status where rank 1 died, expected 1"
grep -q '^nibble: rank 0: rank 1 of 2 is gone .*; the state after step [0-9]* is saved' err.0 || fail "rank 1 died"
rm -r out

# one that lacks memory, here or there from its model to its last checkpoint: it says so, and all hear that
if [ -e "$(dirname "$nibble")/libfaults.so" ]; then
    sed 's/^steps:.*/steps: 2/; s/^seq:.*/seq: 16/; s/^checkpoint:.*/checkpoint: {every: 1, keep: 0}/; s/^lens:.*/lens: {every: 0}/' run.yaml > lacks.yaml
    echo 'share: moments' >> lacks.yaml
    cat > lacks.sh << 'END'
if [ $RANK = 1 ]; then export LD_PRELOAD="$(dirname "$0")/libfaults.so" NIBBLE_FAULT_COUNT=count NIBBLE_FAULT=alloc:$1:12; fi
exec "$0" train lacks.yaml --quiet
END
    over_tcp 2 sh -c '. ./lacks.sh' "$nibble" 0 || true
    [ "$status$others" = "00 " ] || fail "two ranks that share out moments"
    calls=$(sed -n 's/^alloc //p' count)
    back=70 said=0
    while [ $back -gt 0 ]; do
        rm -rf out
        over_tcp 2 sh -c '. ./lacks.sh' "$nibble" $((calls - back)) || true
        if [ "$status$others" != "00 " ]; then # what can be done without is done without
            one_line "no memory at call $((calls - back)) of $calls" "^nibble: rank 1: .*(no memory|out of memory|do not fit)" 1
            said=$((said + 1))
        fi
        back=$((back - 7))
    done
    [ $said -ge 5 ] || fail "no memory: $said of 10 runs failed"
    rm -rf out
fi

timeout -k 5 500 "$source/scripts/attack-ranks" 2 nvfp4 "$nibble" > attack.txt 2> err.0 || fail "attack-ranks"

# mpirun, where there is one
if command -v mpirun > /dev/null && [ -e "$(dirname "$nibble")/libnibble-mpi.so" ]; then
    numbers_of one > one.txt
    over_mpi 2 "$nibble" train run.yaml --set out=two > out.txt 2> err.0 || fail "mpirun"
    numbers_of two > two.txt
    cmp -s one.txt two.txt || fail "two ranks of mpirun end in other bits than one process"
    ! over_mpi 3 "$nibble" train run.yaml --set out=three > out.txt 2> err.0 || fail "4 micro-batches for 3 ranks of mpirun"
    [ "$(grep -c '^nibble:' err.0)" = 1 ] || fail "mpirun: more than one line"
else
    echo "no mpirun, or no libnibble-mpi.so: not tested"
fi
