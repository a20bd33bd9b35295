# shellcheck shell=sh disable=SC2154,SC2086 # $limited is words
# ranks.sh: what tests of many processes share: a little model and data, and ranks that meet at a port of their own.
# Sourced, in a folder to work in, with $nibble and $source set.

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 NIBBLE_PATIENCE=60
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT 2> /dev/null || true

# Blocks of 1x128 want 128 features, and 256 in the MLP so that OutControl splits; keep.last_blocks one block more.
put_files() {
    cat > model.yaml << 'MODEL'
name: small
family: llama
vocab: 512
hidden: 128
layers: 2
heads: 2
kv_heads: 2
head_dim: 64
intermediate: 256
max_seq: 64
MODEL
    i=0
    while [ $i -lt 400 ]; do
        echo "line $i of a text that says little, and says it $((i * 7 % 31)) times"
        i=$((i + 1))
    done > text.txt
    "$nibble" tokenize text.txt --tokenizer bytes --split line -o tokens > /dev/null
    cat > run.yaml << 'RUN'
model: model.yaml
recipe: awake.yaml
out: out
data: {train: "tokens/train_*.bin", val: "tokens/val_*.bin", tokenizer: bytes}
steps: 16
seq: 64
micro_batch: 2
accumulation: 4
optimizer: {lr: 3e-3}
eval: {every: 8, sequences: 6}
checkpoint: {every: 8, keep: 0}
lens: {every: 8}
peak_flops: none
threads: 1
RUN
}

# awake RECIPE: the recipe, with what it schedules moved to where 16 steps see it.
awake() {
    {
        echo "base: $1"
        echo "name: awake"
        shown=$("$nibble" recipe show "$1")
        case $shown in *"hcp:"*) echo "hcp: {share: 0.5, refresh: 5, ema: 0}" ;; esac
        case $shown in *"outcontrol:"*) echo "outcontrol: {start: 3, window: 4}" ;; esac
        case $shown in *"qramping:"*) echo "qramping: {every: 5, window: 2, k1: 4}" ;; esac
        case $shown in *"oscireset:"*) echo "oscireset: {start: 5, period: 6, window: 3, threshold: 2}" ;; esac
    } > awake.yaml
}

# Nothing that is started here runs longer: a rank that waits for ever is a failure with status 124, not a hang.
limit=240
limited="timeout -k 5 $limit"

# Ports that nobody else gets (with_ports.c), one after the other; sets $port.
next_port() {
    set -- $NIBBLE_TEST_PORTS
    shift $((ports % $#))
    port=$1 ports=$((ports + 1))
}
ports=0

# over_tcp WORLD COMMAND...: as a shell would start it; rank 0's output and status, stderr of rank r in err.r. $machine:
# ranks of a machine, if not all are on one.
over_tcp() {
    world=$1
    shift
    next_port
    rank=$((world - 1))
    rm -f err.*
    pids=
    while [ $rank -ge 1 ]; do
        RANK=$rank WORLD_SIZE=$world LOCAL_RANK=$((rank % ${machine:-$world})) LOCAL_WORLD_SIZE=${machine:-$world} \
            MASTER_ADDR=127.0.0.1 MASTER_PORT=$port $limited "$@" < /dev/null > "out.$rank" 2> "err.$rank" &
        pids="$! $pids"
        rank=$((rank - 1))
    done
    status=0
    RANK=0 WORLD_SIZE=$world LOCAL_RANK=0 LOCAL_WORLD_SIZE=${machine:-$world} MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
        $limited "$@" < /dev/null > out.0 2> err.0 || status=$?
    others=
    for pid in $pids; do
        other=0
        wait "$pid" || other=$?
        others="$others$other "
    done
    return $status
}

# Open MPI leaves memory behind and unloads what asked for it: ASan looks for no leaks there.
over_mpi() {
    world=$1
    shift
    ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 $limited mpirun --oversubscribe -n "$world" "$@" < /dev/null
}

# put_hit: hit.sh RANK SIGNAL COMMAND... runs the command, and that rank gets the signal once the run in out has a
# checkpoint.
put_hit() {
    cat > hit.sh << 'HIT'
wait_and_hit() { # while the command is there
    while kill -0 $$ 2> /dev/null; do
        for folder in out/checkpoints/step-*; do
            [ ! -d "$folder" ] || { kill -s "$1" $$ && return; }
        done
        sleep 0.05
    done
}
[ "$RANK" != "$1" ] || wait_and_hit "$2" &
shift 2
exec "$@"
HIT
}

# numbers_of RUN [CHECKPOINT]: what a run computed: parameters, moments, mechanisms' state (of all checkpoints, or of one);
# losses, norms and evaluations.
numbers_of() {
    (cd "$1" && cat checkpoints/${2:-*}/model.safetensors checkpoints/${2:-*}/optimizer.safetensors | cksum &&
        sed 's/"ms":[^,}]*//; s/"tok_s":[^,}]*//; s/"mfu":[^,}]*//; s/"val_seconds":[^,}]*//' metrics.jsonl)
}
