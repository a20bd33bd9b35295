#!/bin/sh
# test_slurm.sh NIBBLE SOURCE_DIR: examples/slurm.sh over stand-ins for srun and scontrol: what is started, and what is put back.
set -eu
source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
PATH=$work:$PATH
export SLURM_JOB_ID=7 SLURM_CPUS_PER_TASK=3

cat > srun << 'END'
#!/bin/sh
echo "$OMP_NUM_THREADS $*" >> started
[ ! -e make ] || mkdir -p runs/checkpoints/step-00000004
exit "$(cat says)"
END
cat > scontrol << 'END'
#!/bin/sh
echo "$*" >> asked
END
chmod +x srun scontrol

job() { # STATUS WHAT-SLURM-IS-ASKED WORDS...: of the job, given what srun says
    want=$1 ask=$2
    shift 2
    rm -f started asked
    got=0
    sh "$source/examples/slurm.sh" run.yaml runs --set 'name=two words' > out 2>&1 || got=$?
    [ "$got" = "$want" ] || { echo "status $got, expected $want"; cat out; exit 1; }
    [ "$(cat asked 2> /dev/null)" = "$ask" ] || { echo "asked '$(cat asked)', expected '$ask'"; exit 1; }
    [ "$(cat started)" = "3 nibble train run.yaml --set out=runs --set name=two words$*" ] || { cat started; exit 1; }
}

echo 1 > says
job 1 ''                 # never began: no checkpoint
touch make
job 1 'requeue 7'        # stopped with a checkpoint
job 1 'requeue 7' ' --resume'
SLURM_RESTART_COUNT=100
export SLURM_RESTART_COUNT
job 1 '' ' --resume'     # for ever is too long
unset SLURM_RESTART_COUNT
echo 2 > says
job 2 '' ' --resume'     # a wrong run file
echo 0 > says
job 0 '' ' --resume'
got=0
sh "$source/examples/slurm.sh" run.yaml > out 2>&1 || got=$?
[ "$got" = 2 ]
