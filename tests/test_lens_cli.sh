#!/bin/sh
# test_lens_cli.sh NIBBLE SOURCE_DIR: a run that is looked at, and `nibble lens` on it: flips before and after resets.
set -eu
nibble=$1 source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"
cd "$work"

printf 'name: small\nfamily: olmo2\nvocab: 257\nhidden: 32\nlayers: 1\nheads: 2\nintermediate: 64\nmax_seq: 64\n' > model.yaml
printf 'name: resets\nbase: nvfp4\nkeep: {last_blocks: 0}\noscireset: {start: 4, period: 4, window: 2, threshold: 1}\n' \
    > resets.yaml
printf 'base: ./resets.yaml\nname: kept\nkeep: {modules: [embedding, lm_head, "*down_proj"]}\n' > kept.yaml
cat > run.yaml << 'END'
model: ./model.yaml
recipe: ./resets.yaml
out: runs/resets
data: {train: "data/train_*.bin", tokenizer: data}
steps: 12
seq: 32
micro_batch: 1
optimizer: {lr: 1e-2}
lens: {every: 4, window: 2}
END
"$nibble" tokenize "$source/docs/training.md" --tokenizer bytes --val 0.2 --split blank -o data > tokenized
"$nibble" train run.yaml -q
"$nibble" train run.yaml -q --set recipe=bf16 --set out=runs/bf16

mkdir -p runs/young/lens # a run that has just begun
cp runs/resets/run.yaml runs/young
head -c 16 runs/resets/lens/series.nbs > runs/young/lens/series.nbs
[ "$("$nibble" lens runs/young)" = "young: nothing was measured yet" ] || fail "$("$nibble" lens runs/young)"
rm -r runs/young
"$nibble" lens runs/resets runs/bf16/ > out
grep -q '^resets:.* flip_rate' out || fail "flip_rate is not listed: $(cat out)"
grep -q '^resets:.* reset_share' out || fail "reset_share is not listed: $(cat out)"
grep -q '^bf16:.* kurtosis' out || fail "the second run is not listed: $(cat out)"
! grep '^bf16:' out | grep -q flip_rate || fail "weights in BF16 flip: $(cat out)"

"$nibble" lens runs/resets runs/bf16 --metric flip_rate > out
grep -q '^ *step  *resets  *bf16$' out || fail "no head: $(cat out)"
[ "$(grep -c '^ *[0-9]' out)" = 3 ] || fail "expected three windows: $(cat out)"
"$nibble" lens runs/resets --metric reset_share --module '*down_proj' > out
[ "$(grep -c '^ *\(7\|11\) ' out)" = 2 ] || fail "expected resets after steps 7 and 11: $(cat out)"
"$nibble" lens runs/resets --metric ratio_above_8 > out || fail "ratios"

# Means are of one operand, and over modules that every run has: the second run keeps down_proj in BF16.
"$nibble" train run.yaml -q --set out=runs/kept --set recipe=./kept.yaml
"$nibble" lens runs/resets --metric snr_db --role fprop.w --module '*gate_proj' > gate
"$nibble" lens runs/resets --metric snr_db --role fprop.w > all
"$nibble" lens runs/resets runs/kept --metric snr_db --role fprop.w > both
grep -q 'mean over 7 modules\. ' all || fail "modules of one run: $(cat all)"
grep -q 'snr_db of fprop.w, mean over 6 modules that every run has; 1 that not every run has are left out' both \
    || fail "modules of two runs: $(cat both)"
[ "$(awk '$1 == 0 {print $2}' all)" != "$(awk '$1 == 0 {print $2}' both)" ] || fail "down_proj is in the mean"
[ "$(awk '$1 == 0 {print $2}' both)" = "$(awk '$1 == 0 {print $3}' both)" ] || fail "means of one weight differ: $(cat both)"
[ "$(awk '$1 == 0 {print $2}' all)" != "$(awk '$1 == 0 {print $2}' gate)" ] || fail "--module picks nothing"

# A set has all of itself in common, and two samples the same share in either order (sets are of one size).
"$nibble" lens runs/resets --drift '*' > drift
[ "$(awk 'NR == 2 {print $2}' drift)" = 1.000 ] || fail "drift: $(cat drift)"
[ "$(awk 'NR == 2 {print $3}' drift)" = "$(awk 'NR == 3 {print $2}' drift)" ] || fail "drift: $(cat drift)"

# Blocks that are looked at in different steps of one sample are of one sample.
sed 's/layers: 1/layers: 2/' model.yaml > two.yaml
"$nibble" train run.yaml -q --set model=./two.yaml --set lens.spread=2 --set out=runs/spread
"$nibble" lens runs/spread --drift '*' > drift
grep -q 'mean over 9 modules\. ' drift || fail "drift leaves modules of a sample out: $(cat drift)"
rm -r runs/spread

refused() { # PATTERN ARGS...: exit status 2 and a line that fits
    pattern=$1 status=0
    shift
    "$nibble" lens "$@" 2> err || status=$?
    [ $status = 2 ] || fail "lens $*: exit $status"
    grep -q "$pattern" err || fail "lens $*: $(cat err)"
}
refused 'kurtosis is measured of .*expected --role' runs/resets --metric kurtosis
refused 'no module fits' runs/resets --drift nothing
refused '2 runs; expected one' runs/resets runs/bf16 --drift '*'
refused 'no run has a number called flips' runs/resets --metric flips
refused 'no run has a number called kurtosis of fprop.z' runs/resets --metric kurtosis --role fprop.z
refused 'neither run.yaml' data

# ---- what report takes, lens takes: a parent, a glob with other files in it ------------------------------------------------
"$nibble" lens runs > parent
"$nibble" lens runs/bf16 runs/kept runs/resets > both
cmp parent both || fail "a parent is not its runs: $(cat parent)"
printf '{}' > runs/compare.json
"$nibble" lens runs/* > globbed || fail "a glob with a file in it"
cmp globbed both || fail "the glob: $(cat globbed)"
"$nibble" report runs/* -o page.html > out || fail "report: a glob with a file in it"
grep -q '3 runs' out || fail "report of a glob: $(cat out)"

# Runs without measurements are passed over with a word on stderr; it is an error where none has any.
"$nibble" train run.yaml -q --set out=runs/blind --set lens.every=0
for asked in runs "runs/blind runs/resets runs/bf16 runs/kept"; do
    # shellcheck disable=SC2086 # words
    "$nibble" lens $asked --metric flip_rate > out 2> err || fail "lens $asked: $(cat err)"
    [ "$(cat err)" = "note: runs/blind: holds no measurements" ] || fail "lens $asked says: $(cat err)"
    grep -q 'step .*resets' out || fail "lens $asked: $(cat out)"
done
"$nibble" lens runs/* --csv > out 2> err || fail "lens runs/* --csv: $(cat err)"
grep -q '^resets,0,' out || fail "lens runs/* --csv: $(head -n 3 out)"
refused 'runs/blind: holds no measurements' runs/blind
refused 'runs/blind, runs/blind: hold no measurements' runs/blind runs/blind
rm -r runs/blind

# ---- for other programs: every number by module and role, and vectors ---------------------------------------------------------
"$nibble" lens runs/resets --csv > all.csv
[ "$(head -n 1 all.csv)" = run,step,module,role,metric,index,value ] || fail "csv: $(head -n 1 all.csv)"
grep -q '^resets,0,layers.0.mlp.down_proj,fprop.w,kurtosis,,-*[0-9]' all.csv || fail "csv: no kurtosis of step 0"
[ "$(grep -c '^resets,6,layers.0.mlp.down_proj,fprop.w,ratios,[0-9]*,' all.csv)" -gt 5 ] || fail "csv: no vector"
"$nibble" lens runs/resets --csv --metric flip_rate --module '*down_proj' > some.csv
[ "$(tail -n +2 some.csv | grep -vc ',flip_rate,')" = 0 ] || fail "csv: more than was asked for"
mean=$("$nibble" lens runs/resets --metric flip_rate --module '*down_proj' | awk '$1 == 6 {print $2}')
[ "$(awk -F, '$2 == 6 {printf "%.5g", $7}' some.csv)" = "$mean" ] || fail "csv and table differ: $(cat some.csv) and $mean"
"$nibble" lens runs/resets --json --metric ratios --module '*down_proj' > some.json
grep -q '^{"run": "resets", "module": "layers.0.mlp.down_proj", "role": "fprop.w", "metric": "ratios", "steps": \[2, 6, 10\], "values": \[\[' some.json ||
    fail "json: $(head -c 300 some.json)"
refused 'expected one of them' runs/resets --csv --json
[ "$("$nibble" lens runs/resets --csv --metric kurtosis --role fprop.x | tail -n +2 | grep -vc ',fprop.x,')" = 0 ] ||
    fail "csv: more roles than were asked for"

# Arrays: the zip is read from its end, as readers of zips do; checksums hold, and the numbers are those of --json.
"$nibble" lens runs/resets --npz all.npz --metric ratios --module '*down_proj'
cat > arrays.pl << 'END'
use strict; use warnings;
local $/; my $zip = <STDIN>;
sub crc { my $c = ~0 & 0xffffffff;
          for my $byte (unpack "C*", $_[0]) { $c ^= $byte; $c = $c & 1 ? ($c >> 1) ^ 0xedb88320 : $c >> 1 for 1 .. 8 }
          return ~$c & 0xffffffff }
my ($magic, $members, $bytes, $at, $comment) = unpack "V x4 x2 v V V v", substr $zip, -22;
die "end" unless $magic == 0x06054b50 && !$comment && $at + $bytes + 22 == length $zip;
for (1 .. $members) {
    my ($is, $crc, $packed, $size, $n, $x, $c, $local) = unpack "V x12 V V V v v v x8 V", substr $zip, $at, 46;
    my $name = substr $zip, $at + 46, $n;
    die "entry of $name" unless $is == 0x02014b50 && $packed == $size && !$x && !$c;
    die "local head of $name" unless substr($zip, $local, 4) eq "PK\3\4" && substr($zip, $local + 4, 26) eq substr($zip, $at + 6, 26)
        && substr($zip, $local + 30, $n) eq $name;
    my $data = substr $zip, $local + 30 + $n, $size;
    die "checksum of $name" unless crc($data) == $crc;
    my $head = substr $data, 10, unpack "v", substr $data, 8, 2;
    die "$name: $head" unless substr($data, 0, 8) eq "\x93NUMPY\1\0" && $head =~
        /^\{'descr': '<(f4|i8)', 'fortran_order': False, 'shape': \((\d+),(?: (\d+))?\), \} *\n$/ && (10 + length $head) % 64 == 0;
    my @numbers = unpack $1 eq "f4" ? "f<*" : "q<*", substr $data, 10 + length $head;
    die "shape of $name" unless @numbers == $2 * ($3 // 1);
    print "$name $2 ", $3 // 1, " ", join(",", map { sprintf "%.9g", $_ } @numbers), "\n";
    $at += 46 + $n;
}
END
perl arrays.pl < all.npz > arrays || fail "npz: $(cat arrays)"
name=layers.0.mlp.down_proj/fprop.w/ratios
numbers=$(sed 's/.*"values": //' some.json | tr -d '[] }')
width=$((($(echo "$numbers" | tr -cd , | wc -c) + 1) / 3))
printf '%s.npy 3 %s %s\n%s@step.npy 3 1 2,6,10\n' $name $width "$numbers" $name | cmp - arrays || fail "npz: $(cat arrays)"
refused 'runs; expected one' runs --npz x.npz
refused 'no run has such a series' runs/resets --npz x.npz --metric flips
[ ! -e x.npz ] || fail "a refused npz left a file"
refused 'no run has such a series' runs/resets --csv --metric flips
