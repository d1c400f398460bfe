"""`torchslots completion`."""

from typing import Annotated, Literal

import tyro

from torchslots.cli.options import Words, parse

_NAMES = """\
# Sets `names` and `folders`: what may stand at place $1 (0: the command's name), behind the word $2, in the line $3...
_torchslots_names() {
    names=() folders=""
    case "$2" in
        --data|--data.dataset) names=(@datasets@); return ;;
        --features) names=(@recipes@); return ;;
        --system) names=(@systems@); return ;;
        --init|--slot-encoder|--tokenizer) names=(@models@) folders=1; return ;;
    esac
    case "$1:$4" in
        1:*) names=(@commands@) ;;
        2:train|2:recipes|2:bench) names=(@recipes@) ;;
        2:predict|2:evaluate|2:edit|2:app|2:compose|2:concepts|2:slots|2:export) names=(@models@) folders=1 ;;
        2:data) names=(@data@) ;;
        2:pretrained) names=(@pretrained@) ;;
        2:completion) names=(bash zsh) ;;
        3:pretrained)
            case "$5" in
                info|get) names=(@models@) ;;
            esac ;;
        3:data)
            case "$5" in
                prepare) names=(@recipes@ @datasets@) ;;
                list|download|inspect) names=(@datasets@) ;;
            esac ;;
    esac
}
"""
_BASH = """\
# Completion of torchslots in bash:
#   torchslots completion bash > ~/.torchslots.bash
#   echo 'source ~/.torchslots.bash' >> ~/.bashrc
@names@
_torchslots() {
    local word="${COMP_WORDS[COMP_CWORD]}" names folders IFS=$'\\n'
    _torchslots_names "$COMP_CWORD" "${COMP_WORDS[COMP_CWORD-1]}" "${COMP_WORDS[@]}"
    COMPREPLY=($(compgen -W "${names[*]}" -- "$word"))
    if [ -n "$folders" ]; then
        COMPREPLY+=($(compgen -d -- "$word"))
        compopt -o filenames 2>/dev/null
    fi
}
complete -o default -F _torchslots torchslots
"""
_ZSH = """\
#compdef torchslots
# Completion of torchslots in zsh:
#   torchslots completion zsh > ~/.torchslots.zsh
#   echo 'source ~/.torchslots.zsh' >> ~/.zshrc
@names@
_torchslots() {
    local -a names
    local folders matched=1
    _torchslots_names $((CURRENT - 1)) "${words[CURRENT-1]}" "${words[@]}"
    compadd -a names && matched=0
    [[ -n $folders ]] && _files -/ && matched=0
    (( matched )) && _files && matched=0
    return matched
}
if [[ ${funcstack[1]} == _torchslots ]]; then
    _torchslots "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _torchslots torchslots
fi
"""


def completion(words: Words) -> int:
    """`torchslots completion bash`."""

    def of_shell(shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional] = "bash", /) -> None:
        """Print a script that completes commands, recipes, models, data sets and demonstrations; file names otherwise.

        Names are those of this version: write the script again after an update.

        Args:
            shell: Its script; the head says how to load it.
        """
        print(script(shell), end="")

    parse(of_shell, words, "completion")
    return 0


def script(shell: Literal["bash", "zsh"] = "bash") -> str:
    """The script of a shell, with the names of this version."""
    from torchslots.cli import COMMANDS
    from torchslots.cli.data import COMMANDS as DATA
    from torchslots.cli.pretrained import COMMANDS as PRETRAINED
    from torchslots.convert.released import RELEASED
    from torchslots.convert.shipped import SHIPPED
    from torchslots.data.catalog import DATASETS
    from torchslots.recipes.catalog import RECIPES
    from torchslots.recipes.demos import DEMOS

    tables = {
        "commands": COMMANDS,
        "recipes": RECIPES,
        "models": (*SHIPPED, *RELEASED),
        "datasets": DATASETS,
        "systems": DEMOS,
        "data": DATA,
        "pretrained": PRETRAINED,
    }
    text = {"bash": _BASH, "zsh": _ZSH}[shell].replace("@names@", _NAMES)
    for name, table in tables.items():
        text = text.replace(f"@{name}@", " ".join(table))
    return text
