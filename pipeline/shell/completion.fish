# Completes `python cli.py` in a checkout of the ELISA feature store; other programs of Python's are completed as before.
function __elisa_store
    set -l words (commandline -opc)
    # No other program is run because TAB was pressed.
    test (count $words) -ge 2; and test (basename -- $words[2]) = cli.py; or return 1
    head -n 1 -- $words[2] 2>/dev/null | string match -q "*ELISA feature store*"
end

function __elisa_store_found
    set -l words (commandline -opc)
    set -l line (commandline -cp | string replace -r "^.*?cli\.py" cli.py)
    set -l found (_ELISA_STORE_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS="$line" $words[1] $words[2] 2>/dev/null)
    if test -n "$found"
        printf "%s\n" $found
    else
        __fish_complete_path (commandline -ct)
    end
end

for name in python python3
    complete --command $name --condition __elisa_store --no-files --arguments "(__elisa_store_found)"
end
