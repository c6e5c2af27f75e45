# Completes `python cli.py` in a checkout of the ELISA feature store; other programs of Python's are completed as before.
{ _comp_load python || _completion_loader python; } > /dev/null 2>&1  # bash-completion's, where it is installed

_elisa_store() {
    local cli=${COMP_WORDS[1]/#\~/$HOME} other
    # No other program is run because TAB was pressed.
    if ((COMP_CWORD < 2)) || [[ ${cli##*/} != cli.py ]] || ! head -n 1 -- "$cli" 2> /dev/null | grep -q "ELISA feature store"; then
        for other in _comp_cmd_python _python; do
            declare -F "$other" > /dev/null && "$other" "$@" && return
        done
        return 0
    fi
    local line=${COMP_LINE:0:COMP_POINT}
    mapfile -t COMPREPLY < <(
        _ELISA_STORE_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS="cli.py${line#*cli.py}" \
            "${1/#\~/$HOME}" "$cli" 2> /dev/null | sed $'/^$/d; s/\t.*//'
    )
    [[ ${COMPREPLY[*]} == *= ]] && compopt -o nospace 2> /dev/null
    return 0
}
complete -o bashdefault -o default -F _elisa_store python python3
