# Completes `python cli.py` in a checkout of the ELISA feature store; other programs of Python's are completed as before.
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }

_elisa_store() {
    local cli=${words[2]/#\~/$HOME} line
    # No other program is run because TAB was pressed.
    if (( CURRENT < 3 )) || [[ ${cli:t} != cli.py ]] || ! head -n 1 -- $cli 2> /dev/null | grep -q "ELISA feature store"; then
        (( $+functions[_python] )) || autoload -Uz _python
        _python "$@" 2> /dev/null || _files
        return
    fi
    local -a found unfinished
    for line in "${(@f)$(
        _ELISA_STORE_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS="cli.py ${words[3,CURRENT]}" \
            ${words[1]/#\~/$HOME} $cli 2> /dev/null
    )}"; do
        [[ -z $line ]] && continue
        [[ $line == *= ]] && unfinished+=($line) && continue
        found+=("${${line%%$'\t'*}//:/\\:}${${line#*$'\t'}:+:${line#*$'\t'}}")
    done
    if (( $#found + $#unfinished )); then
        (( $#found )) && _describe -V "cli.py" found
        (( $#unfinished )) && compadd -S "" -a unfinished
        return 0
    fi
    _files
}
compdef _elisa_store python python3
