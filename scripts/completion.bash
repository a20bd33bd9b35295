# Completion of `nibble` for bash: commands, options, keys of run files after --set, recipes and models, all as the program itself
# tells them. Installed as share/bash-completion/completions/nibble; or: source scripts/completion.bash
# shellcheck shell=bash

# The program that is being typed.
_nibble_ask() {
    "$_nibble_program" "$@" 2> /dev/null
}

_nibble_commands() {
    _nibble_ask help | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p'
}

_nibble_options() {
    _nibble_ask help "$@" | grep -o -- '^  .*' | grep -o -- '--[a-z][a-z-]*\|^  -[a-z]\b' | tr -d ' ' | sort -u
}

_nibble() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} words
    _nibble_program=${COMP_WORDS[0]}
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        words=$(_nibble_commands)
    elif [ "$previous" = --set ]; then
        words=$(_nibble_ask help --keys run | sed -n 's/^  \([a-z][a-z0-9_.]*\)  .*/\1=/p')
        compopt -o nospace 2> /dev/null
    elif [ "$previous" = --recipe ] || [ "$previous" = --recipes ] || [ "$command $previous" = "recipe show" ]; then
        words=$(_nibble_ask recipe list | sed -n 's/^  \([a-z0-9][a-z0-9-]*\)  .*/\1/p')
    elif [ "${word#-}" != "$word" ]; then
        if [ "$command" = bench ] && [ "$COMP_CWORD" -gt 2 ]; then
            words=$(_nibble_options bench "${COMP_WORDS[2]}")
        else
            words=$(_nibble_options "$command")
        fi
    elif [ "$command $COMP_CWORD" = "recipe 2" ]; then
        words="list show check"
    elif [ "$command $COMP_CWORD" = "help 2" ]; then
        words=$(_nibble_commands)
    fi
    # A list of words, none of which holds a space; where there is none, bash's own files follow.
    # shellcheck disable=SC2207
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}

complete -o default -F _nibble nibble
