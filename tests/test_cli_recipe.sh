#!/bin/sh
# test_cli_recipe.sh NIBBLE SOURCE_DIR: `nibble recipe` as a user types it.
set -eu
nibble=$1 source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"

"$nibble" recipe list > "$work/list"
for file in "$source"/recipes/*.yaml; do
    name=$(basename "$file" .yaml)
    grep -q "^  $name " "$work/list" || fail "recipe list does not name $name"
    "$nibble" recipe show "$name" > "$work/show"
    grep -q "^  dgrad.dy " "$work/show" || fail "recipe show $name prints no roles"

    # show -> check -> show loses nothing
    "$nibble" recipe show "$name" --yaml > "$work/$name.yaml"
    "$nibble" recipe check "$work/$name.yaml" | grep -q ': good$' || fail "the shown $name is not good"
    "$nibble" recipe show "$work/$name.yaml" --yaml | cmp - "$work/$name.yaml" || fail "$name changes when shown twice"
done
grep -c '^[A-Z]' "$work/list" | grep -qv '^1$' || fail "recipe list has no families"
sed -n '/^TetraJet$/,/^$/p' "$work/list" | grep -q '^  tetrajet-v2 ' || fail "tetrajet-v2 is not of its family"
! grep -q 'no family' "$work/list" || fail "a recipe says no family"
"$nibble" recipe check "$source"/recipes/*.yaml > "$work/out"
"$nibble" recipe show nvfp4 | grep -q '^    scale: absmax  *# default: the format$' || fail "show names no default"
"$nibble" recipe show nvfp4 | grep -q '^  last_blocks: 0.15  *# nvfp4.yaml:7$' || fail "show names no line"

printf 'base: nvfp4\nname: mine\nkepp: {last_blocks: 2}\n' > "$work/typo.yaml"
expect 2 "typo.yaml:3: unknown key 'kepp'; did you mean 'keep'?" "$nibble" recipe check "$work/typo.yaml"
printf 'base: ./b.yaml\n' > "$work/a.yaml"
printf 'base: ./a.yaml\n' > "$work/b.yaml"
expect 2 "b.yaml:1: base: .*a.yaml comes back to itself" "$nibble" recipe show "$work/a.yaml"
: > "$work/empty.yaml"
printf 'name: x\nbase: nvfp4\nfprop: {x: {block: 1x32}}\n' > "$work/blocks.yaml" # the base's format, with another block
expect 2 "blocks.yaml:3: fprop.x: nvfp4: block must be 1x16 or 16x16" "$nibble" recipe check "$work/blocks.yaml"
expect 2 "empty.yaml: is empty" "$nibble" recipe check "$work/empty.yaml"
expect 2 "no recipe is called 'nvpf4'.*did you mean 'nvfp4'?" "$nibble" recipe show nvpf4
expect 2 "no-such.yaml: cannot open: No such file" "$nibble" recipe check "$work/no-such.yaml"
expect 2 "expected 'list', 'show NAME'" "$nibble" recipe shwo nvfp4
expect 2 "unknown option --yml; did you mean --yaml?" "$nibble" recipe show nvfp4 --yml
expect 2 "something is missing; usage: nibble recipe list, or: nibble recipe show NAME.*, or: nibble recipe check" "$nibble" recipe
expect 2 "NIBBLE_HOME is .*, which holds no folder 'recipes'" env NIBBLE_HOME="$work" "$nibble" recipe list

mkdir -p "$work/home/recipes"
cp "$source/recipes/bf16.yaml" "$work/home/recipes/only.yaml"
[ "$(NIBBLE_HOME=$work/home "$nibble" recipe list | grep -c "^  ")" = 1 ] || fail "NIBBLE_HOME is not obeyed"
mkdir "$work/beside" && cp "$nibble" "$work/beside/nibble" && cp -r "$work/home/recipes" "$work/beside/"
[ "$(env -u NIBBLE_HOME "$work/beside/nibble" recipe list | grep -c "^  ")" = 1 ] || fail "recipes beside the program are not found"
